// Package brokertest is the suite that every [broker.Broker] passes. An
// implementation has one test for it:
//
//	func TestBroker(t *testing.T) { brokertest.Run(t, start) }
//
// It runs against a real server that the tests stop, start again and cut off from
// its clients, so each promise of package broker is seen to hold where it matters.
package brokertest

// Package sagatest tests sagas without a server, in virtual time.
//
// [Explore] plays a definition in thousands of simulated worlds that go wrong in
// every way that a seed can think of, and checks that each saga ends with all of
// its steps done, or with all that was done undone, once each and in the right
// order. One line in a test is enough:
//
//	func TestCheckout(t *testing.T) { sagatest.Explore(t, checkout.Saga, 1000) }
//
// Participants answer with made-up values of their reply types. Say more where
// that is not enough: [Reply] answers a command, [Request] and [Payload] make what
// clients send, [With] adds child sagas.
//
// A run that breaks a promise fails the test with the line that plays it again,
// and with what happened in it, after taking away the faults that do not matter.
//
// [Commute] checks that it does not matter in which order replies come that are
// awaited at the same time.
package sagatest

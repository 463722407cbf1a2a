// Package sagatest tests sagas without a server, in virtual time.
//
// Begin with the two tests that need one line each. [Unwind] has every step fail
// in turn and checks that whatever was done is undone. [Explore] plays the saga in
// thousands of simulated worlds that go wrong in every way that a seed can think
// of: messages are lost and doubled, processes crash between any two writes, and
// somebody cancels in the middle.
//
//	func TestCheckout(t *testing.T) {
//		sagatest.Unwind(t, checkout.Saga)
//		sagatest.Explore(t, checkout.Saga, 1000)
//	}
//
// Participants answer with made-up values of their reply types. Say more where
// that is not enough: [Reply] answers a command, [Request] and [Payload] make what
// clients send, [With] adds child sagas, and [Check] looks at the end. With a
// [Database] local steps are run in it, and [CheckRows] looks at its rows; without one
// they are not run, which the log says.
//
// A run that breaks a promise fails the test with the line that plays it again,
// and with what happened in it, after taking away the faults that do not matter.
//
// For what a saga is to do in a certain case, write a script: [Play] begins one,
// whose methods say what comes and check what the saga makes of it.
//
// [Commute] checks that it does not matter in which order replies come that are
// awaited at the same time. [Explore] does so too.
package sagatest

// Package wire puts processes together: it reads the environment, builds the
// parts of a role with fx, and runs them until a signal or a failure. Nothing
// outside of cmd knows fx or an environment variable of ours.
//
// A role is one of gateway, engine, order, payment and inventory. Each is an fx
// application of its own, so the binary of one role and the all-in-one dev
// process run the same graph; dev gives its roles a shared [Process].
package wire

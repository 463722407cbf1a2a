// Package sim plays sagas in simulated worlds and checks that every promise of the
// platform holds in all of them, whatever goes wrong; see [sagatest] for what such
// a world has and what can go wrong in it.
//
// TestShop plays a shop whose participants keep stock and money, so that what is
// promised can be counted. TestFlows plays flows that are put together at random of
// all nodes there are. Both take seeds: "make sim SEEDS=100000" plays more of them
// than the tests do.
//
// A test that cannot fail proves nothing, so each thing that keeps a promise is
// broken in turn, and the seeds must find out. TestFlaws breaks the parts that are
// simulated: participants without an inbox, a database without a guard, a relay
// that skips. "make mutants" breaks the code of the engine itself, line by line, by
// an overlay of the compiler, and what operators order as well, which a model on a
// real database finds; see the package mutate.
package sim

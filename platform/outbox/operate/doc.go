// Package operate is how operators work with an outbox: how much waits and why, and
// what to do with rows that the broker will never take.
//
// Such a row is dead. Later rows of its partition key are parked behind it, so that
// the order of the key holds, until somebody requeues it (it goes first, the parked
// ones follow in order) or discards it (they follow without it). Rows of the key that
// were in the same batch but for a topic of another stream of the broker may have
// gone out before: between such topics a key has no order on the broker either.
//
// Whatever is done to a row is logged with who did it and why.
package operate

// Package returns is the saga of goods that come back: each line is taken back by
// the inventory, what was paid for them is refunded, and the order says so. When a
// line is not taken back, those that were are given up again and nothing is paid.
//
// Like the other sagas of the sample shop it is to be replaced by your own.
package returns

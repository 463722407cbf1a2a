// Package review is the saga of an order that a person must approve when it is
// large or somebody has flagged it. Stock and money are held while the order waits,
// so an approval can be kept; when it is declined, or nobody decides in time, both
// are let go.
//
// Like the other sagas of the sample shop it is to be replaced by your own.
package review

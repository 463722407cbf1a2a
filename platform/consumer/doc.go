// Package consumer subscribes services to topics: it feeds events to handlers so
// that the effects in the handler's Postgres transaction happen once, although
// events are delivered at least once.
//
// A [Feed] reads the partitions that this process owns and hands what has
// arrived, from all of them, to a [Processor] as one batch. The processor
// handles the batch in one transaction, which also moves the stored positions
// by compare-and-swap. Nothing is acknowledged to the broker: after a crash, a
// take-over or a commit with an unknown outcome, reading goes on from the
// positions in Postgres, and so does the order.
//
// [Commands] is the processor for participants. A handler takes a typed request
// and returns a typed reply; the inbox answers a command that comes again with
// the reply it had, and keeps a tombstone for a command whose compensation came
// first. A handler ends in one of three ways: a reply, a rejection
// ([events.Reject], its writes are rolled back), or any other error, which is
// tried again with backoff, keeping the partition's order, and set aside as a
// dead letter after the last attempt or at once when wrapped by [Terminal].
package consumer

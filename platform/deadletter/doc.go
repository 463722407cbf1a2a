// Package deadletter is how operators work with dead letters: the events that a
// consumer has set aside because it could not handle them. They live in the
// consumer's own database, whatever the broker is, with the event as it was, where
// it stood in its topic, and how it failed.
//
// A letter is dead until somebody decides over it. Redriving hands it to its
// consumer again, in the consumer's process and in one transaction with the effects
// of its handler; the broker and other consumers of the topic see nothing of it.
// Discarding gives it up. Where a consumer parks keys
// ([github.com/countermand/countermand/platform/consumer.FeedConfig]), later
// messages of a dead letter's partition key are parked behind it, untried, and are
// handled in order when it was redriven or discarded.
//
// [Store.Replay] hands messages that a topic still has to a consumer in the same way,
// dead or not.
//
// Whatever is done to a letter is logged with who did it and why, and with the
// event as it was before.
package deadletter

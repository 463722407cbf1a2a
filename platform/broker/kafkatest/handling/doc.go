// Package handling holds the tests of what handles and sends messages, on Kafka: the
// consumer with its dead letters and replays, and the outbox with its parked keys.
// They run on NATS beside the packages themselves; the behaviour must be the same.
package handling

// Package kafkabroker is the platform's broker on Apache Kafka, version 2.8 or
// later.
//
// A topic is a Kafka topic of the same name, and a partition is a Kafka
// partition: the hash of [broker.Partition] is that of Kafka's Java client. An
// offset of this package is Kafka's plus one, so that zero stands before the
// first message. Events are in the binary mode of CloudEvents.
//
// A publisher is idempotent: each partition gets batches with a producer id and
// sequence numbers, one in flight at a time, and an ack that did not arrive is
// asked for with the same bytes until [Config.Timeout] is over. A caller that
// publishes the message again later, with the same PublishID, is still answered
// by that batch. So a lost ack leaves one copy as long as this process lives;
// copies of other processes are found with [Config.DuplicateWindow] only.
//
// Acks are those of all replicas in sync, always. Kafka does not sync to disk
// before it acks: what is stored is safe because it is on several machines, so a
// topic has three replicas in production and [Broker.Ensure] refuses those of
// which one would be enough for an ack.
//
// Transactions are not used, and the package does not hide aborted ones: let no
// transactional producer write to these topics.
package kafkabroker

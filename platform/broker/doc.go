// Package broker is the batch-native core through which events move: publish a
// batch and know of each message whether it is stored, read a topic's
// partitions in order from a position the reader keeps itself, or subscribe as
// a group whose progress the broker keeps.
//
// Every topic has the same number of ordered partitions. Events of one
// partition key go to one partition, so one key keeps its order through
// publishing, retries and a change of reader.
//
// Implementations live below: natsbroker on JetStream and kafkabroker on Apache
// Kafka, both of which pass the suite of package brokertest. The outbox relay and
// the consumers use this package directly; package watermillbroker puts
// watermill's Publisher and Subscriber on top for routers and middleware.
package broker

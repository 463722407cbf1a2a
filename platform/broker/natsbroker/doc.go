// Package natsbroker is the platform's broker on NATS JetStream.
//
// Topics of one domain (the first segment of the name) share a stream, and each
// partition of a topic is a subject: partition 3 of shop.inventory.commands is
// shop.inventory.commands.3 in the stream countermand_shop. The partition is
// computed here, from the partition key, as Kafka computes it.
//
// A batch for one stream is published as an atomic batch (NATS ADR-50): stored
// whole or not at all, and with one fsync on a server whose sync_interval is
// "always". Run the server that way; its default acknowledges messages up to
// two minutes before they are safe from a power cut. Small batches go one
// message at a time, which is cheaper up to [Config.AtomicFrom].
//
// All who publish to a stream through one [Broker] share its batches: what comes
// while a batch is on its way forms the next. So use one Broker for a connection.
package natsbroker

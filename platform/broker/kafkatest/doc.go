// Package kafkatest runs Kafka servers for tests: a real Apache Kafka where Java
// and Maven Central can be had, and elsewhere a fake that speaks the protocol in
// this process.
//
// The fake (franz-go's kfake) keeps logs, groups, producer sequences and topic ids
// as Kafka does, and can be told to fail. It says nothing about what only a
// cluster has: replicas, their acks and elections.
//
// The package is a module of its own, so that nobody who builds on the platform
// gets a second Kafka client.
package kafkatest

// Package outbox publishes events that belong to a database transaction: Write
// puts them in the caller's transaction, and the Relay publishes them after it
// has committed.
//
// The promise: the events of a committed transaction reach the broker at least
// once, and the first occurrences of one partition key arrive in commit order;
// the events of a transaction that rolled back never do. Two conditions: writers
// of one key wait for each other (a row lock or a revision check held to the
// commit), and the broker keeps order within a batch, as [broker.Publisher]
// demands.
//
// The table is divided into lanes by partition key. One relay owns a lane at a
// time, reads its visible rows in id order, publishes them and deletes what the
// broker has stored. There is no cursor that could pass over a late commit, no
// status column, and no notification inside the business transaction.
package outbox

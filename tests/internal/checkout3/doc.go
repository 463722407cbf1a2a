// Package checkout3 is the workload that saga engines are compared by: a saga
// begins, then reserves, authorizes and confirms, each writing one row in a
// transaction of the participant's own. Of the sagas that fail, the authorization
// is rejected and the reservation released.
//
// Everything is real and durable: commands, replies and outcomes go through
// JetStream with a sync before every ack, state and rows through Postgres. There
// is no HTTP in it, so that only the engine and its messaging are measured.
package checkout3

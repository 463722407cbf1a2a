// Package participant has AI models called as steps of sagas. It obeys
// [aievents.Complete], and [aievents.ReserveBudget] with its undo.
//
// A command to call a model reserves what that can cost, in the transaction that takes
// the command in, and owes its reply. A worker makes the call. Its result, the books of
// its attempts, the reply and the events about it are committed in one transaction, so
// a saga goes on exactly when its call is in the books. A command that comes again is
// answered with the reply that is stored.
//
// # What "once" covers
//
// The ledger, the reply and the events exist once. The provider's work cannot be made
// to: no provider documents a key by which it would recognise a request. So an attempt
// is recorded as dispatched before it leaves, and when a worker dies after that, nobody
// calls the provider again. The call is uncertain: its command is rejected with
// [aievents.Uncertain], and what it may have cost stays held, as the budgets say.
//
// Calls that provably never left are tried again, a few times.
package participant

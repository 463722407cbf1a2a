// Package budget keeps calls of models within what somebody has allowed, and the
// books of what they did cost.
//
// A call is reserved before it is made ([Keeper.Reserve]): the most that it can cost is
// held against every [Budget] that its caller has, of all or of none. Each attempt is
// dispatched when it is about to leave and ends once: settled with what it has used,
// released when it provably never left, or uncertain when nobody knows. What is held
// and not used goes back.
//
// # What you may rely on
//
// Spent and reserved together never exceed a limit, whatever number of processes share
// a budget and whenever they die, as long as no attempt uses more than its call said
// that it might, and nobody lowers the limit or chooses to release what is uncertain.
//
// Every attempt has one end, and its ledger row exists once. The row is written a few
// milliseconds after the attempt has ended; where the process dies before, the attempt
// is found and becomes uncertain.
//
// # Leases
//
// To ask the database for each call would cost more than the gateway does. A process
// takes a lease: a hundredth of what is left, or what the call needs. It is reserved in
// the database before it is used, and handed out in memory. What a budget has little of
// is leased by the call, so that the last call that fits is let through, and the next
// one is not. A process that dies leaves its leases behind; they stay reserved until
// another one has added up the attempts that it has recorded. What is left may have
// been spent by calls of its last milliseconds, so it is treated as uncertain.
//
// A process that cannot reach the database stops using its leases before they expire,
// and refuses calls then.
package budget

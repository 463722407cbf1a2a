// Package schedule sends commands, such as those that start sagas, at set times.
//
// A [Schedule] says when ([Spec]: a cron expression in a time zone, or an
// interval), what ([Action]), and what to do when the saga of the firing before
// has not ended ([Overlap]) or when a firing was missed ([CatchUp]). Schedules
// live in Postgres, beside the outbox of whoever runs them. A [Scheduler] fires
// them; run as many as you like on one database.
//
// # What you may rely on
//
// A firing is decided once. Its command and the advance of its schedule are
// written in one transaction, which is guarded by compare-and-swap, so that two
// schedulers that see the same schedule due do not both send. When a scheduler
// dies, another one goes on from what is committed. Time is the database's: the
// clocks of the processes do not matter.
//
// The id of a command, and so of the saga that it starts, derives from the
// schedule and the time of the firing. So a backfill does not repeat what has
// fired, and a command that reaches the engine twice starts one saga.
//
// # The clock and its jumps
//
// A firing is known by the time that the schedule states, its nominal time.
// Where clocks are put forward, a cron time that does not exist fires when the
// gap ends. Where they are put back, a time that comes twice fires the first time
// only. An expression whose hours field begins with a star follows the elapsed
// time instead: "*/30 * * * *" fires every half hour, whatever clocks show.
package schedule

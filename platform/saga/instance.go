package saga

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/countermand/countermand/events"
)

// Status of a saga. The words are the same in SQL, HTTP and metrics.
type Status string

// The statuses. Completed, Compensated and Abandoned are final and written once;
// only the parent of a child saga may have a completed child compensated.
const (
	Running      Status = "running"
	Compensating Status = "compensating"
	Completed    Status = "completed"
	Compensated  Status = "compensated"
	// Stuck means that a step which cannot be undone, or a compensation, has had
	// no good answer for too long. The engine goes on trying, unless it was refused,
	// and a late reply still counts, but a person should look.
	Stuck Status = "stuck"
	// Abandoned means that an operator gave the saga up as it stood.
	Abandoned Status = "abandoned"
)

// Final reports whether the saga has ended for good.
func (s Status) Final() bool { return s == Completed || s == Compensated || s == Abandoned }

// StepStatus of a step of a saga.
type StepStatus string

// The statuses of a step, in the order in which it goes through them.
const (
	StepPending  StepStatus = "pending"
	StepRunning  StepStatus = "running" // or waiting, or asleep
	StepDone     StepStatus = "done"
	StepRejected StepStatus = "rejected"
	StepTimedOut StepStatus = "timed_out" // in doubt
	// StepCancelled is work that was under way when the saga turned round, and that
	// has no undo.
	StepCancelled    StepStatus = "cancelled"
	StepCompensating StepStatus = "compensating"
	StepCompensated  StepStatus = "compensated"
)

// Failure tells why a saga compensates or is stuck.
type Failure struct {
	Step    string      `json:"step,omitempty"`
	Code    events.Code `json:"code"`
	Message string      `json:"message,omitempty"`
}

// Instance is one saga: everything there is to know of it. It is changed by
// [Program.Decide] only; every change is an [Entry] of its history.
type Instance struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Version int    `json:"version"`
	Status  Status `json:"status"`
	// Backward says that the saga undoes what it did, or is stuck doing so.
	Backward bool `json:"backward,omitempty"`
	// Pivoted says that the saga has passed its pivot, so it only goes forward.
	Pivoted bool `json:"pivoted,omitempty"`
	// Paused says that an operator has stopped it; see [Pause].
	Paused bool `json:"paused,omitempty"`
	// State is the user's state type as JSON.
	State json.RawMessage `json:"state"`
	// Steps holds the nodes that the saga has come to, in the order in which it
	// did. [Reader] adds the pending ones.
	Steps []StepRecord `json:"steps"`
	// Signals are those that came and are not awaited yet.
	Signals []SignalRecord `json:"signals,omitempty"`
	// Failure tells why the saga compensates, Trouble why it is stuck.
	Failure *Failure        `json:"failure,omitempty"`
	Trouble *Failure        `json:"trouble,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`

	// StartType and Fingerprint are of the command that began it.
	StartType   string `json:"start_type"`
	Fingerprint string `json:"fingerprint,omitempty"`
	// Tenant owns the saga. What the saga sends carries it, so that what participants
	// tell of it reaches the followers of that tenant only.
	Tenant string `json:"tenant,omitempty"`
	// Parent is the saga that this one is a step of, and ReplyTo where it waits.
	Parent  string       `json:"parent,omitempty"`
	ReplyTo events.Topic `json:"reply_to,omitempty"`
	// Recalled is the id of the command by which the parent had it undone.
	Recalled  string    `json:"recalled,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	// Deadline is of the whole saga.
	Deadline time.Time `json:"deadline,omitzero"`
	// TraceParent and TraceState continue the trace when a timer fires.
	TraceParent string `json:"traceparent,omitempty"`
	TraceState  string `json:"tracestate,omitempty"`
}

// StepRecord is what a saga knows of a node that it has come to.
type StepRecord struct {
	// Name of the node. Inside a for-each, a decide and the handler of a rejection
	// it ends with the index of the item, the turn or the round: pick[2], pick[2.0].
	Name   string     `json:"name"`
	Kind   string     `json:"kind,omitempty"` // empty for a step
	Status StepStatus `json:"status"`
	// Round counts how often the step was called anew after a rejection. Each round
	// is a command of its own.
	Round int        `json:"round,omitempty"`
	Do    CallRecord `json:"do,omitzero"`
	Undo  CallRecord `json:"undo,omitzero"`
	// UndoRound counts how often an operator had the compensation called anew.
	UndoRound int `json:"undo_round,omitempty"`
	// Done is the place of the step among those of its saga that were done: from 1.
	Done int `json:"order,omitempty"`
	// Code is of the rejection that is being handled, or was, or of the trouble with
	// the step.
	Code events.Code `json:"code,omitempty"`
	// Choice is what a choice chose, from 0; -1 for nothing.
	Choice int `json:"choice,omitempty"`
	// Items of a for-each, as its bodies have left them.
	Items []json.RawMessage `json:"items,omitempty"`
	// Turns are the options that a decide has run.
	Turns []string `json:"turns,omitempty"`
	// Origin is the name that the command ids of this step derive from, when the
	// node was renamed since.
	Origin string `json:"origin,omitempty"`
}

// CallRecord is what was sent and received for one command.
type CallRecord struct {
	Request  json.RawMessage `json:"request,omitempty"`
	Reply    json.RawMessage `json:"reply,omitempty"`
	Attempts int             `json:"attempts,omitempty"`
	SentAt   time.Time       `json:"sent_at,omitzero"`
	RetryAt  time.Time       `json:"retry_at,omitzero"`
	Deadline time.Time       `json:"deadline,omitzero"`
	// Error is why the last attempt of a local step failed, or what the trouble with
	// the command is.
	Error string `json:"error,omitempty"`
}

// SignalRecord is a signal that is kept until it is awaited.
type SignalRecord struct {
	ID   string          `json:"id"` // of the event
	Type string          `json:"type"`
	Data json.RawMessage `json:"data,omitempty"`
}

// settled takes the reply in; nothing is due any more.
func (c *CallRecord) settled(reply json.RawMessage) {
	c.Reply, c.RetryAt, c.Deadline = reply, time.Time{}, time.Time{}
}

// DoID and UndoID return the ids of the commands of the first round of a step:
// always the same for the same saga and step, which is what makes a repeated
// command one command.
func DoID(sagaID, step string) string { return events.DeriveID(sagaID, step, "do") }

// UndoID returns the id of the compensation of a step.
func UndoID(sagaID, step string) string { return events.DeriveID(sagaID, step, "undo") }

// DoID returns the id of the command of the round that the step is in.
func (r *StepRecord) DoID(sagaID string) string { return commandID(sagaID, r, "do", r.Round) }

// UndoID returns the id of the compensation of the step.
func (r *StepRecord) UndoID(sagaID string) string {
	return commandID(sagaID, r, "undo", r.Round, r.UndoRound)
}

func commandID(sagaID string, step *StepRecord, verb string, rounds ...int) string {
	parts := []string{sagaID, or(step.Origin, step.Name), verb}
	if slices.ContainsFunc(rounds, func(round int) bool { return round > 0 }) {
		for _, round := range rounds {
			parts = append(parts, strconv.Itoa(round))
		}
	}
	return events.DeriveID(parts...)
}

// awaits reports whether something is to come for the step, and for its undo.
func (r *StepRecord) awaits() (waiting, undo bool) {
	return r.Status == StepRunning || r.Status == StepCompensating, r.Status == StepCompensating
}

// call returns the record of what the step waits for.
func (r *StepRecord) call() *CallRecord {
	if r.Status == StepCompensating {
		return &r.Undo
	}
	return &r.Do
}

// Due returns when the saga must be looked at again without a reply; zero when
// never.
func (in *Instance) Due() time.Time {
	if in.Status.Final() || in.Paused {
		return time.Time{}
	}
	due := time.Time{}
	if !in.Backward && !in.Pivoted {
		due = in.Deadline
	}
	for i := range in.Steps {
		// Going backward, a command that is still out waits for its turn to be undone.
		if waiting, undo := in.Steps[i].awaits(); waiting && undo == in.Backward {
			due = earliest(due, earliest(in.Steps[i].call().RetryAt, in.Steps[i].call().Deadline))
		}
	}
	return due
}

// earliest returns the earlier of two times of which zero is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

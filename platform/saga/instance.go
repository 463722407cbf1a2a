package saga

import (
	"encoding/json"
	"time"

	"github.com/countermand/countermand/events"
)

// Status of a saga. The words are the same in SQL, HTTP and metrics.
type Status string

// The statuses. Completed, Compensated and Abandoned are final and written once.
const (
	Running      Status = "running"
	Compensating Status = "compensating"
	Completed    Status = "completed"
	Compensated  Status = "compensated"
	// Stuck means that a step which cannot be undone, or a compensation, has had
	// no good answer for too long. The engine goes on trying, unless it was refused,
	// and a late reply still counts, but a person should look.
	Stuck     Status = "stuck"
	Abandoned Status = "abandoned"
)

// Final reports whether the saga has ended for good.
func (s Status) Final() bool { return s == Completed || s == Compensated || s == Abandoned }

// StepStatus of a step of a saga.
type StepStatus string

// The statuses of a step, in the order in which it goes through them.
const (
	StepPending      StepStatus = "pending"
	StepRunning      StepStatus = "running"
	StepDone         StepStatus = "done"
	StepRejected     StepStatus = "rejected"
	StepTimedOut     StepStatus = "timed_out" // in doubt
	StepCompensating StepStatus = "compensating"
	StepCompensated  StepStatus = "compensated"
)

// Failure tells why a saga compensates or is stuck.
type Failure struct {
	Step    string      `json:"step"`
	Code    events.Code `json:"code"`
	Message string      `json:"message,omitempty"`
}

// Instance is one saga: everything there is to know of it. It is stored as one
// JSON document and changed by [Program.Decide] only.
type Instance struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Version int    `json:"version"`
	Status  Status `json:"status"`
	// Backward says that a stuck saga was compensating.
	Backward bool `json:"backward,omitempty"`
	// State is the user's state type as JSON.
	State json.RawMessage `json:"state"`
	Steps []StepRecord    `json:"steps"`
	// Failure tells why the saga compensates, Trouble why it is stuck.
	Failure *Failure        `json:"failure,omitempty"`
	Trouble *Failure        `json:"trouble,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`

	// StartType and Fingerprint are of the command that began it.
	StartType   string    `json:"start_type"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
	// Armed is when the saga's timer row is due. It may be earlier than needed: a
	// timer that fires early is set again, which is cheaper than moving it at
	// every step.
	Armed time.Time `json:"armed,omitzero"`
	// TraceParent and TraceState continue the trace when a timer fires.
	TraceParent string `json:"traceparent,omitempty"`
	TraceState  string `json:"tracestate,omitempty"`
}

// StepRecord is what a saga knows of one of its steps.
type StepRecord struct {
	Name   string     `json:"name"`
	Status StepStatus `json:"status"`
	Do     CallRecord `json:"do,omitzero"`
	Undo   CallRecord `json:"undo,omitzero"`
}

// CallRecord is what was sent and received for one command.
type CallRecord struct {
	Request  json.RawMessage `json:"request,omitempty"`
	Reply    json.RawMessage `json:"reply,omitempty"`
	Attempts int             `json:"attempts,omitempty"`
	SentAt   time.Time       `json:"sent_at,omitzero"`
	RetryAt  time.Time       `json:"retry_at,omitzero"`
	Deadline time.Time       `json:"deadline,omitzero"`
}

// answered takes the reply in; nothing is due any more.
func (c *CallRecord) answered(reply json.RawMessage) {
	c.Reply, c.RetryAt, c.Deadline = reply, time.Time{}, time.Time{}
}

// DoID and UndoID return the ids of the commands of a step: always the same for
// the same saga and step, which is what makes a repeated command one command.
func DoID(sagaID, step string) string { return events.DeriveID(sagaID, step, "do") }

// UndoID returns the id of the compensation of a step.
func UndoID(sagaID, step string) string { return events.DeriveID(sagaID, step, "undo") }

// awaited returns the step whose reply the saga waits for, and whether it is
// that of its compensation; -1 when it waits for none.
func (in *Instance) awaited() (index int, undo bool) {
	for i := range in.Steps {
		if status := in.Steps[i].Status; status == StepRunning || status == StepCompensating {
			return i, status == StepCompensating
		}
	}
	return -1, false
}

// due returns when the saga must be looked at again without a reply; zero when
// never.
func (in *Instance) due() time.Time {
	i, undo := in.awaited()
	if i < 0 || in.Status.Final() {
		return time.Time{}
	}
	call := in.Steps[i].Do
	if undo {
		call = in.Steps[i].Undo
	}
	if in.Status == Stuck || call.RetryAt.Before(call.Deadline) {
		return call.RetryAt
	}
	return call.Deadline
}

package schedule

import (
	"time"

	"github.com/countermand/countermand/events"
)

// State is how far a schedule is.
type State struct {
	// Next is the nominal time of the next firing; zero when there is none left or
	// while it is paused.
	Next time.Time `json:"next,omitzero"`
	// Paused schedules fire only when triggered or backfilled; Note says why, in
	// the words of whoever paused or resumed it.
	Paused bool   `json:"paused,omitempty"`
	Note   string `json:"note,omitempty"`

	// Scheduled counts what has fired by itself, towards the limit. Started counts
	// everything that was sent.
	Scheduled int64 `json:"scheduled,omitempty"`
	Started   int64 `json:"started,omitempty"`
	Skipped   int64 `json:"skipped,omitempty"`
	Missed    int64 `json:"missed,omitempty"`

	// Running are the sagas that were started and are not known to have ended. Under
	// [AllowAll], which does not ask, there are only those of backfills one by one.
	Running []Running `json:"running,omitempty"`
	// Waiting is the firing that [BufferOne] holds back; zero when there is none.
	Waiting time.Time `json:"waiting,omitzero"`
	// Backfills are not finished yet; the first is worked on.
	Backfills []Backfill `json:"backfills,omitempty"`

	// Origin tells this schedule from an earlier one of the same id.
	Origin    string    `json:"origin"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Running is a saga that a firing has started.
type Running struct {
	ID     string    `json:"id"`
	SentAt time.Time `json:"sent_at"`
}

// Backfill asks for the firings of a time range, From included, To not, as if
// nobody had missed them. The limit, a pause and the overlap policy do not matter
// to it.
type Backfill struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// OneByOne starts a saga when the one before has ended. Otherwise they all
	// start at once.
	OneByOne bool `json:"one_by_one,omitempty"`
	// Again also repeats firings that have happened. Without it they are left out.
	Again bool `json:"again,omitempty"`

	// Salt makes new ids for Again; set by the scheduler.
	Salt string `json:"salt,omitempty"`
}

// Kind tells why something fired.
type Kind string

// The kinds of firings.
const (
	Scheduled  Kind = "scheduled"
	Triggered  Kind = "triggered"
	Backfilled Kind = "backfilled"
)

// Outcome is what became of a firing.
type Outcome string

// The outcomes.
const (
	Started Outcome = "started" // its command was sent
	Skipped Outcome = "skipped" // the saga before had not ended
	Missed  Outcome = "missed"  // nobody acted upon it in time
)

// Firing is one time at which a schedule fired, or was to.
type Firing struct {
	// ID is that of the command, and so of the saga that it starts.
	ID string `json:"id"`
	// At is the nominal time.
	At      time.Time `json:"at"`
	Kind    Kind      `json:"kind"`
	Outcome Outcome   `json:"outcome"`
	// Count is 1 but for skipped and missed firings that were decided together: At
	// is that of the first, then.
	Count int `json:"count"`
	// DecidedAt is when a scheduler acted upon it.
	DecidedAt time.Time `json:"decided_at"`
}

// Record is a schedule with its state.
type Record struct {
	Schedule
	State State `json:"state"`
	// Revision counts the changes by operators. Firings do not change it.
	Revision int64 `json:"revision"`

	turn       int64 // counts every change
	unreadable error // what another binary has written is not understood here
}

// commandID returns the id of the firing at that time. The same firing has the
// same id, whoever decides it.
func (s *State) commandID(kind string, at time.Time) string {
	return events.DeriveID("schedule", s.Origin, kind, at.UTC().Format(time.RFC3339Nano))
}

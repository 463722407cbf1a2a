package operate

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/share"
)

// State of a row.
type State string

// The states.
const (
	Waiting State = "waiting" // for the relay
	Dead    State = "dead"    // the broker will never take it: somebody must decide over it
	Parked  State = "parked"  // behind a dead row of its key
)

// Status of an outbox.
type Status struct {
	Service string `json:"service"`
	// Waiting rows are committed and not yet known to be published, of each lane at most
	// [outbox.CountMax]; Oldest is when the oldest of them was written.
	Waiting int        `json:"waiting"`
	Oldest  *time.Time `json:"oldest,omitempty"`
	Dead    int        `json:"dead"`
	Parked  int        `json:"parked"`
	// Delayed events are due later, the first of them at NextDue.
	Delayed int        `json:"delayed"`
	NextDue *time.Time `json:"next_due,omitempty"`
	// Failure is why the relay of this process waits, if it does, since FailingSince.
	Failure      string     `json:"failure,omitempty"`
	FailingSince *time.Time `json:"failing_since,omitempty"`
	Lanes        []Lane     `json:"lanes"`
}

// Lane of an outbox.
type Lane struct {
	Lane    int        `json:"lane"`
	Waiting int        `json:"waiting"`
	Oldest  *time.Time `json:"oldest,omitempty"`
	Dead    int        `json:"dead"`
	// Owner is the database connection of the relay that owns the lane; absent when
	// none does.
	Owner *share.Owner `json:"owner,omitempty"`
}

// Row of an outbox.
type Row struct {
	// ID names the row in its process: the service, a dot and a number.
	ID      string `json:"id"`
	Service string `json:"service"`
	Lane    int    `json:"lane"`
	State   State  `json:"state"`
	// Why it is not published, for people.
	Why       string    `json:"why"`
	Topic     string    `json:"topic"`
	Key       string    `json:"key,omitempty"`
	EventID   string    `json:"event_id,omitempty"`
	EventType string    `json:"event_type,omitempty"`
	PublishID string    `json:"publish_id"`
	CreatedAt time.Time `json:"created_at"`
	Error     string    `json:"error,omitempty"`
}

// Detail is a row with its event and what was done to it.
type Detail struct {
	Row
	// Event is the event as structured JSON of CloudEvents; absent when it is none.
	Event json.RawMessage `json:"event,omitempty"`
	Log   []LogEntry      `json:"log"`
}

// LogEntry is something that was done to a row.
type LogEntry struct {
	Verb string    `json:"verb"` // requeue or discard
	By   string    `json:"by"`
	Note string    `json:"reason"`
	At   time.Time `json:"at"`
}

// RefusalError is an order that is not obeyed, for the reason that Code names.
type RefusalError struct{ Code, Message string }

func (r *RefusalError) Error() string { return r.Code + ": " + r.Message }

// ErrNotFound means that no such row is set aside, or not any more.
var ErrNotFound = errors.New("no such row is set aside")

func name(service string, id int64) string { return service + "." + strconv.FormatInt(id, 10) }

// ParseID splits the name of a row.
func ParseID(text string) (service string, id int64, ok bool) {
	at := strings.LastIndexByte(text, '.')
	if at < 1 {
		return "", 0, false
	}
	id, err := strconv.ParseInt(text[at+1:], 10, 64)
	return text[:at], id, err == nil && id > 0
}

// stored is a row as the tables have it.
type stored struct {
	id               int64
	lane             int
	state            State
	topic, publishID string
	attributes, data []byte
	createdAt        time.Time
	text             string
	behind           int64
}

// row returns it as operators see it; the reason of one that waits is the caller's.
func (s *stored) row(service string) (Row, json.RawMessage) {
	r := Row{
		ID: name(service, s.id), Service: service, Lane: s.lane, State: s.state, Topic: s.topic, PublishID: s.publishID,
		CreatedAt: s.createdAt, Error: s.text,
	}
	switch s.state {
	case Waiting:
	case Dead:
		r.Why = "the broker will never take it: requeue it when the cause is mended, or discard it"
	case Parked:
		r.Why = fmt.Sprintf("it waits behind %s of its key: requeue or discard that one", name(service, s.behind))
	}
	e, err := events.ParseAttributes(s.attributes, s.data)
	if err != nil {
		return r, nil
	}
	r.Key, r.EventID, r.EventType, r.PublishID = e.Key(), e.ID, e.Type, outbox.PublishID(s.publishID, &e)
	ce, err := e.CloudEvent()
	if err != nil {
		return r, nil
	}
	text, err := ce.MarshalJSON()
	if err != nil {
		return r, nil
	}
	return r, text
}

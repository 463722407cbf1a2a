package deadletter

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/countermand/countermand/events"
)

// State of a letter.
type State string

// The states.
const (
	Dead      State = "dead"      // somebody must decide over it
	Parked    State = "parked"    // it waits, untried, for an earlier letter of its key
	Redriving State = "redriving" // its consumer is to handle it again
)

// Summary of a letter, without its event.
type Summary struct {
	// ID names the letter in its process: the service, a dot and a number.
	ID       string `json:"id"`
	Service  string `json:"service"`
	State    State  `json:"state"`
	Consumer string `json:"consumer"`
	// Reason is malformed, no_handler, terminal or failed; empty when it was not
	// tried yet. Error is what the last attempt said.
	Reason   string `json:"reason,omitempty"`
	Error    string `json:"error,omitempty"`
	Attempts int    `json:"attempts"`
	// Replayed says that an operator put it there to have the message handled once more,
	// Again that this is to be done although the inbox knows it. DiedAt is when it was put
	// there, until it dies of it.
	Replayed bool `json:"replayed,omitempty"`
	Again    bool `json:"again,omitempty"`
	// Redrives is how often it was told to be handled again.
	Redrives int `json:"redrives"`
	// Topic, Partition and Position are where it stood.
	Topic     string `json:"topic"`
	Partition int    `json:"partition"`
	Position  int64  `json:"position"`
	// Key is its partition key; HoldsKey says that later messages of the key wait.
	Key       string `json:"key,omitempty"`
	HoldsKey  bool   `json:"holds_key,omitempty"`
	EventID   string `json:"event_id"`
	EventType string `json:"event_type"`
	// CorrelationID is the saga, of commands and replies.
	CorrelationID string     `json:"correlation_id,omitempty"`
	StoredAt      *time.Time `json:"stored_at,omitempty"` // by the broker
	DiedAt        time.Time  `json:"died_at"`
	Revision      int64      `json:"revision"`
}

// Letter is a letter with its event.
type Letter struct {
	Summary
	// Behind is the letter that a parked one waits for.
	Behind string `json:"behind,omitempty"`
	// Event is the event as structured JSON of CloudEvents; absent when what came was
	// no event. Attributes and Data are then what could be read of it.
	Event      json.RawMessage   `json:"event,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Data       []byte            `json:"data,omitempty"` // base64 in JSON
	Log        []LogEntry        `json:"log"`
}

// LogEntry is something that was done to a letter.
type LogEntry struct {
	// Verb is edit, redrive, discard or replay; handled or died is what redrive or replay led to.
	Verb string    `json:"verb"`
	By   string    `json:"by"`
	Note string    `json:"reason,omitempty"`
	At   time.Time `json:"at"`
	// Before is the event as it was before an edit, where it was one.
	Before json.RawMessage `json:"before,omitempty"`
}

// Group is letters that have something in common.
type Group struct {
	Service   string    `json:"service"`
	Consumer  string    `json:"consumer"`
	Topic     string    `json:"topic"`
	EventType string    `json:"event_type"`
	Reason    string    `json:"reason,omitempty"`
	State     State     `json:"state"`
	Count     int       `json:"count"`
	Oldest    time.Time `json:"oldest"`
	Newest    time.Time `json:"newest"`
}

// Filter selects letters. What is empty does not count.
type Filter struct {
	State     State  `json:"state,omitempty"`
	Consumer  string `json:"consumer,omitempty"`
	Topic     string `json:"topic,omitempty"`
	Key       string `json:"key,omitempty"`
	EventType string `json:"event_type,omitempty"`
	Reason    string `json:"reason,omitempty"`
	// Error is part of the error's text.
	Error         string    `json:"error,omitempty"`
	CorrelationID string    `json:"correlation_id,omitempty"`
	DiedAfter     time.Time `json:"died_after,omitzero"`
	DiedBefore    time.Time `json:"died_before,omitzero"`
}

// RefusalError is an order that is not obeyed, for the reason that Code names.
type RefusalError struct{ Code, Message string }

func (r *RefusalError) Error() string { return r.Code + ": " + r.Message }

func refuse(code, format string, args ...any) error {
	return &RefusalError{code, fmt.Sprintf(format, args...)}
}

// ErrNotFound means that there is no such letter, or not any more.
var ErrNotFound = errors.New("no such dead letter")

func name(service string, id int64) string { return service + "." + strconv.FormatInt(id, 10) }

// ParseID splits the name of a letter.
func ParseID(text string) (service string, id int64, ok bool) {
	at := strings.LastIndexByte(text, '.')
	if at < 1 {
		return "", 0, false
	}
	id, err := strconv.ParseInt(text[at+1:], 10, 64)
	return text[:at], id, err == nil && id > 0
}

// structured returns the event in its structured JSON form; nil when it is none.
func structured(attributes, data []byte) json.RawMessage {
	e, err := events.ParseAttributes(attributes, data)
	if err != nil {
		return nil
	}
	ce, err := e.CloudEvent()
	if err != nil {
		return nil
	}
	text, err := ce.MarshalJSON()
	if err != nil {
		return nil
	}
	return text
}

// readable returns what could be read of the attributes of what is no event.
func readable(attributes []byte) map[string]string {
	e, _ := events.ParseAttributes(attributes, nil)
	found := make(map[string]string)
	for name, value := range map[string]string{
		"id": e.ID, "source": e.Source, "type": e.Type, "subject": e.Subject, "datacontenttype": e.DataContentType,
		"correlationid": e.CorrelationID, "causationid": e.CausationID, "partitionkey": e.PartitionKey, "replyto": e.ReplyTo, "undoes": e.Undoes,
	} {
		if value != "" {
			found[name] = value
		}
	}
	return found
}

package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/deadletter"
)

// Consumers is the body of the list of consumers.
type Consumers struct {
	Consumers []deadletter.Consumer `json:"consumers"`
}

// ReplayRequest is the body of an order to replay. Its range is Since and Until, or
// Positions.
type ReplayRequest struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
	Force  bool   `json:"force,omitempty"`
	// Service is needed when several have a consumer of that name and topic.
	Service  string `json:"service,omitempty"`
	Consumer string `json:"consumer"`
	Topic    string `json:"topic"`
	// Since and Until bound when the broker stored the messages; without Until it is
	// the moment of the order.
	Since     time.Time             `json:"since,omitzero"`
	Until     time.Time             `json:"until,omitzero"`
	Positions *deadletter.Positions `json:"positions,omitempty"`
	// IDs, EventType, Key and CorrelationID select within the range.
	IDs           []string `json:"ids,omitempty"`
	EventType     string   `json:"event_type,omitempty"`
	Key           string   `json:"key,omitempty"`
	CorrelationID string   `json:"correlation_id,omitempty"`
	// Again makes effects a second time that the inbox knows to have been made.
	Again bool `json:"again,omitempty"`
	// ExpectedCount is how many messages must be selected, or nothing is done. A dry run
	// needs none.
	ExpectedCount int  `json:"expected_count,omitempty"`
	DryRun        bool `json:"dry_run,omitempty"`
	// Rate is how many messages are replayed per second: 50 by default.
	Rate float64 `json:"rate,omitempty"`
	// SecondsMax ends the order after that long, whatever is left.
	SecondsMax float64 `json:"seconds_max,omitempty"`
}

// ReplayLine is one line of the answer to an order to replay.
type ReplayLine struct {
	// Event is selected, then message for each, then finished or interrupted.
	Event string `json:"event"`
	// Count is set but for an event message.
	Count *deadletter.BulkCount `json:"count,omitempty"`
	// Message is set for an event message.
	Message *deadletter.ReplayItem `json:"message,omitempty"`
	// Detail tells why it was interrupted.
	Detail string `json:"detail,omitempty"`
}

func (a *messagingAPI) consumers(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	for _, name := range sortedNames(query) {
		if name != "service" {
			refuse(w, r, http.StatusBadRequest, "unknown_parameter", "there is no parameter "+name)
			return
		}
	}
	stores, ok := a.ofService(w, r, query.Get("service"))
	if !ok {
		return
	}
	body := Consumers{Consumers: []deadletter.Consumer{}}
	for _, s := range stores {
		of, err := s.Consumers(r.Context())
		if err != nil {
			a.fail(w, r, err)
			return
		}
		body.Consumers = append(body.Consumers, of...)
	}
	writeJSON(w, body)
}

// replay gives an order to replay and tells of each message, one JSON document a line.
func (a *messagingAPI) replay(w http.ResponseWriter, r *http.Request) {
	var body ReplayRequest
	if !a.read(w, r, &body) || !a.signed(w, r, body.By, body.Reason) {
		return
	}
	if !validPace(body.Rate, body.SecondsMax) {
		refuse(w, r, http.StatusUnprocessableEntity, "invalid_rate", invalidPace)
		return
	}
	stores, ok := a.ofService(w, r, body.Service)
	if !ok {
		return
	}
	store, err := a.reading(r, stores, &body)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	order := deadletter.Replay{
		Order:    deadletter.Order{By: body.By, Reason: body.Reason, DryRun: body.DryRun, Force: body.Force},
		Consumer: body.Consumer, Topic: events.Topic(body.Topic), Since: body.Since, Until: body.Until, Positions: body.Positions,
		IDs: body.IDs, EventType: body.EventType, Key: body.Key, CorrelationID: body.CorrelationID, Again: body.Again,
		Expected: body.ExpectedCount, Rate: body.Rate, TimeMax: time.Duration(body.SecondsMax * float64(time.Second)),
	}
	lines, out, begun := json.NewEncoder(w), http.NewResponseController(w), false
	line := func(l ReplayLine) {
		_ = lines.Encode(l) // the client is gone when this fails, and then the context ends
		_ = out.Flush()
	}
	count, err := store.Replay(r.Context(), a.messaging.topicsOf(store), order, func(selected int) {
		begun = true
		w.Header().Set("Content-Type", "application/jsonl")
		w.Header().Set("Cache-Control", "no-store")
		line(ReplayLine{Event: "selected", Count: &deadletter.BulkCount{Selected: selected}})
	}, func(item deadletter.ReplayItem) { line(ReplayLine{Event: "message", Message: &item}) })
	switch {
	case err == nil:
		line(ReplayLine{Event: "finished", Count: &count})
	case !begun:
		a.fail(w, r, err)
	case errors.Is(err, deadletter.ErrTimeUp):
		line(ReplayLine{Event: "interrupted", Count: &count, Detail: err.Error()})
	default:
		a.logger.WarnContext(r.Context(), "replay was interrupted", "consumer", body.Consumer, "topic", body.Topic, "by", body.By, "error", err)
		line(ReplayLine{Event: "interrupted", Count: &count, Detail: "the database or the broker did not answer: give the order again"})
	}
}

// reading returns the one store whose database the consumer runs on.
func (a *messagingAPI) reading(r *http.Request, stores []*deadletter.Store, body *ReplayRequest) (*deadletter.Store, error) {
	var found []*deadletter.Store
	for _, s := range stores {
		of, err := s.Consumers(r.Context())
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(of, func(c deadletter.Consumer) bool { return c.Consumer == body.Consumer && c.Topic == body.Topic }) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, &deadletter.RefusalError{Code: "consumer_not_found", Message: "no consumer " + body.Consumer + " of the topic " + body.Topic +
			" has run on the databases of this process"}
	}
	return nil, &deadletter.RefusalError{Code: "service_required", Message: "several services have a consumer " + body.Consumer + " of that topic: name one"}
}

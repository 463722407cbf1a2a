package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/deadletter"
)

// DeadLetters is the body of a list of dead letters.
type DeadLetters struct {
	DeadLetters []deadletter.Summary `json:"dead_letters"`
	// Next continues the list as ?cursor=; absent on the last page.
	Next string `json:"next,omitempty"`
}

// DeadLetterGroups is the body of the groups of dead letters.
type DeadLetterGroups struct {
	Groups []deadletter.Group `json:"groups"`
}

// DeadLetterOrder is the body of an order about a dead letter.
type DeadLetterOrder struct {
	// By is who gives the order, Reason why; both are required.
	By     string `json:"by"`
	Reason string `json:"reason"`
	// Force redrives what was redriven too often.
	Force bool `json:"force,omitempty"`
	// Event replaces that of the letter, in the structured JSON of CloudEvents; for
	// edit, as Data, which replaces only the event's data, by JSON.
	Event json.RawMessage `json:"event,omitempty"`
	Data  json.RawMessage `json:"data,omitempty"`
}

// DeadLetterResult is the answer to an order about a dead letter.
type DeadLetterResult struct {
	DryRun bool `json:"dry_run"`
	// DeadLetter is how it stands after the order; after discard, how it was.
	DeadLetter deadletter.Letter `json:"dead_letter"`
}

// DeadLetterBulk is the body of an order for many dead letters.
type DeadLetterBulk struct {
	Verb   string `json:"verb"` // redrive or discard
	By     string `json:"by"`
	Reason string `json:"reason"`
	Force  bool   `json:"force,omitempty"`
	// Service whose letters they are; all when it is empty.
	Service string            `json:"service,omitempty"`
	Filter  deadletter.Filter `json:"filter"`
	// ExpectedCount is how many letters the filter must select, or nothing is done. A
	// dry run needs none.
	ExpectedCount int  `json:"expected_count,omitempty"`
	DryRun        bool `json:"dry_run,omitempty"`
	// Rate is how many letters are told per second: 50 by default.
	Rate float64 `json:"rate,omitempty"`
	// SecondsMax ends the order after that long, whatever is left.
	SecondsMax float64 `json:"seconds_max,omitempty"`
}

// DeadLetterLine is one line of the answer to an order for many dead letters.
type DeadLetterLine struct {
	// Event is selected, then dead_letter for each, then finished or interrupted.
	Event string `json:"event"`
	// Count is set but for an event dead_letter.
	Count *deadletter.BulkCount `json:"count,omitempty"`
	// DeadLetter is set for an event dead_letter.
	DeadLetter *deadletter.BulkItem `json:"dead_letter,omitempty"`
	// Detail tells why it was interrupted.
	Detail string `json:"detail,omitempty"`
}

// letterQuery is what a list or groups are asked for.
type letterQuery struct {
	filter  deadletter.Filter
	service string
	cursor  string
	limit   int
}

func (a *messagingAPI) list(w http.ResponseWriter, r *http.Request) {
	query, stores, ok := a.query(w, r)
	if !ok {
		return
	}
	var before int64
	if query.cursor != "" {
		service, id, ok := deadletter.ParseID(query.cursor)
		if !ok {
			refuse(w, r, http.StatusBadRequest, "invalid_cursor", "cursor must be the next of an earlier page")
			return
		}
		before = id
		stores = slices.DeleteFunc(slices.Clone(stores), func(s *deadletter.Store) bool { return s.Service() < service })
		if len(stores) > 0 && stores[0].Service() != service {
			before = 0
		}
	}
	body := DeadLetters{DeadLetters: []deadletter.Summary{}}
	for _, s := range stores {
		page, err := s.List(r.Context(), query.filter, before, query.limit-len(body.DeadLetters))
		if err != nil {
			a.fail(w, r, err)
			return
		}
		before = 0
		body.DeadLetters = append(body.DeadLetters, page...)
		if n := len(body.DeadLetters); n == query.limit {
			body.Next = body.DeadLetters[n-1].ID
			break
		}
	}
	writeJSON(w, body)
}

func (a *messagingAPI) groups(w http.ResponseWriter, r *http.Request) {
	query, stores, ok := a.query(w, r)
	if !ok {
		return
	}
	body := DeadLetterGroups{Groups: []deadletter.Group{}}
	for _, s := range stores {
		groups, err := s.Groups(r.Context(), query.filter)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		body.Groups = append(body.Groups, groups...)
	}
	writeJSON(w, body)
}

// query reads the parameters of a list; it answers itself when they are wrong.
func (a *messagingAPI) query(w http.ResponseWriter, r *http.Request) (q letterQuery, stores []*deadletter.Store, ok bool) {
	q, code, err := parseLetterQuery(r.URL.Query())
	if err != nil {
		refuse(w, r, http.StatusBadRequest, code, err.Error())
		return q, nil, false
	}
	stores, ok = a.ofService(w, r, q.service)
	return q, stores, ok
}

// ofService returns the stores of a service; it answers itself when there are none.
func (a *messagingAPI) ofService(w http.ResponseWriter, r *http.Request, service string) ([]*deadletter.Store, bool) {
	stores := a.messaging.stores(service)
	if len(stores) == 0 && service != "" {
		refuse(w, r, http.StatusNotFound, "service_not_found", fmt.Sprintf("no service %q is in this process", service))
		return nil, false
	}
	return stores, true
}

func parseLetterQuery(query url.Values) (q letterQuery, code string, err error) {
	q.limit = 50
	f := &q.filter
	texts := map[string]*string{
		"service": &q.service, "cursor": &q.cursor, "consumer": &f.Consumer, "topic": &f.Topic, "key": &f.Key, "event_type": &f.EventType,
		"reason": &f.Reason, "error": &f.Error, "correlation_id": &f.CorrelationID,
	}
	for _, name := range sortedNames(query) {
		if len(query[name]) > 1 {
			return q, "invalid_parameter", fmt.Errorf("%s is given %d times", name, len(query[name]))
		}
		value := query[name][0]
		if into, ok := texts[name]; ok {
			*into = value
			continue
		}
		switch name {
		case "state":
			f.State = deadletter.State(value)
			err = checkState(f.State)
		case "died_after":
			f.DiedAfter, err = parseTime(name, value)
		case "died_before":
			f.DiedBefore, err = parseTime(name, value)
		case "limit":
			if q.limit, err = strconv.Atoi(value); err != nil || q.limit < 1 || q.limit > deadletter.ListMax {
				err = fmt.Errorf("limit must be a number from 1 to %d", deadletter.ListMax)
			}
		default:
			return q, "unknown_parameter", fmt.Errorf("there is no parameter %q", name)
		}
		if err != nil {
			return q, "invalid_" + name, err
		}
	}
	return q, "", nil
}

func checkState(state deadletter.State) error {
	switch state {
	case "", deadletter.Dead, deadletter.Parked, deadletter.Redriving:
		return nil
	}
	return errors.New("state must be one of dead, parked, redriving")
}

// letter finds what a path names; it answers itself when there is no such thing.
func (a *messagingAPI) letter(w http.ResponseWriter, r *http.Request, id string) (*deadletter.Store, int64, bool) {
	service, number, ok := deadletter.ParseID(id)
	if stores := a.messaging.stores(service); ok && len(stores) == 1 {
		return stores[0], number, true
	}
	refuse(w, r, http.StatusNotFound, "dead_letter_not_found", "there is no dead letter of this id in this process; ids look like inventory.17")
	return nil, 0, false
}

func (a *messagingAPI) get(w http.ResponseWriter, r *http.Request) {
	store, id, ok := a.letter(w, r, r.PathValue("id"))
	if !ok {
		return
	}
	letter, err := store.Get(r.Context(), id)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("ETag", etag(letter.Revision))
	writeJSON(w, letter)
}

// order gives an order to the letter that the path names before the colon.
func (a *messagingAPI) order(w http.ResponseWriter, r *http.Request) {
	name, verb, _ := strings.Cut(r.PathValue("target"), ":")
	if verb != "redrive" && verb != "discard" && verb != "edit" {
		refuse(w, r, http.StatusNotFound, "verb_not_found", "post to /admin/v1/dead-letters/{id}:VERB, where VERB is redrive, discard or edit")
		return
	}
	store, id, ok := a.letter(w, r, name)
	if !ok {
		return
	}
	when, ok := a.condition(w, r)
	if !ok {
		return
	}
	if verb == "edit" && r.Header.Get("If-Match") == "" {
		refuse(w, r, http.StatusPreconditionRequired, "if_match_required", "If-Match must be the ETag of the letter that was edited, or *")
		return
	}
	var body DeadLetterOrder
	if !a.read(w, r, &body) || !a.signed(w, r, body.By, body.Reason) {
		return
	}
	if verb != "edit" && (body.Event != nil || body.Data != nil) || verb != "redrive" && body.Force {
		refuse(w, r, http.StatusUnprocessableEntity, "invalid_request", "event and data are for edit only, force for redrive only")
		return
	}
	order := deadletter.Order{By: body.By, Reason: body.Reason, Revision: when.Revision, DryRun: when.DryRun, Force: body.Force}
	var (
		letter deadletter.Letter
		err    error
	)
	switch verb {
	case "redrive":
		letter, err = store.Redrive(r.Context(), id, order)
	case "discard":
		letter, err = store.Discard(r.Context(), id, order)
	default:
		letter, err = a.edit(r, store, id, body, order)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if !when.DryRun && verb != "discard" {
		w.Header().Set("ETag", etag(letter.Revision))
	}
	writeJSON(w, DeadLetterResult{DryRun: when.DryRun, DeadLetter: letter})
}

func (a *messagingAPI) edit(r *http.Request, store *deadletter.Store, id int64, body DeadLetterOrder, order deadletter.Order) (deadletter.Letter, error) {
	text := body.Event
	if (text == nil) == (body.Data == nil) {
		return deadletter.Letter{}, &deadletter.RefusalError{Code: "invalid_event", Message: "give either event or data"}
	}
	if text == nil {
		letter, err := store.Get(r.Context(), id)
		if err != nil {
			return letter, err
		}
		if letter.Event == nil {
			return letter, &deadletter.RefusalError{Code: "invalid_event", Message: "what came was no event: give a whole event, not its data alone"}
		}
		text, order.Revision = letter.Event, letter.Revision
		if when := r.Header.Get("If-Match"); when != "*" && when != etag(letter.Revision) {
			return letter, &deadletter.RefusalError{Code: "revision_moved", Message: fmt.Sprintf("it is at revision %d", letter.Revision)}
		}
	}
	var ce cloudevents.Event
	if err := ce.UnmarshalJSON(text); err != nil {
		return deadletter.Letter{}, &deadletter.RefusalError{Code: "invalid_event", Message: err.Error()}
	}
	event := events.FromCloudEvent(ce)
	if body.Data != nil {
		event.Data = body.Data
		if event.DataContentType == "" {
			event.DataContentType = events.ContentTypeJSON
		}
	}
	return store.Edit(r.Context(), id, event, order)
}

const invalidPace = "rate must be at most 1000 a second, seconds_max at most a day"

func validPace(rate, secondsMax float64) bool {
	return rate >= 0 && rate <= 1000 && secondsMax >= 0 && secondsMax <= 86_400
}

// bulk gives an order to many letters and tells of each, one JSON document a line.
func (a *messagingAPI) bulk(w http.ResponseWriter, r *http.Request) {
	var body DeadLetterBulk
	if !a.read(w, r, &body) || !a.signed(w, r, body.By, body.Reason) {
		return
	}
	if err := checkState(body.Filter.State); err != nil {
		refuse(w, r, http.StatusUnprocessableEntity, "invalid_state", err.Error())
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
	order := deadletter.Bulk{
		Verb: body.Verb, Filter: body.Filter, Expected: body.ExpectedCount, Rate: body.Rate,
		TimeMax: time.Duration(body.SecondsMax * float64(time.Second)),
		Order:   deadletter.Order{By: body.By, Reason: body.Reason, DryRun: body.DryRun, Force: body.Force},
	}
	lines, out, begun := json.NewEncoder(w), http.NewResponseController(w), false
	line := func(l DeadLetterLine) {
		_ = lines.Encode(l) // the client is gone when this fails, and then the context ends
		_ = out.Flush()
	}
	count, err := deadletter.RunBulk(r.Context(), stores, order, func(selected int) {
		begun = true
		w.Header().Set("Content-Type", "application/jsonl")
		w.Header().Set("Cache-Control", "no-store")
		line(DeadLetterLine{Event: "selected", Count: &deadletter.BulkCount{Selected: selected}})
	}, func(item deadletter.BulkItem) { line(DeadLetterLine{Event: "dead_letter", DeadLetter: &item}) })
	switch {
	case err == nil:
		line(DeadLetterLine{Event: "finished", Count: &count})
	case !begun:
		a.fail(w, r, err)
	case errors.Is(err, deadletter.ErrTimeUp):
		line(DeadLetterLine{Event: "interrupted", Count: &count, Detail: err.Error()})
	default:
		a.logger.WarnContext(r.Context(), "bulk order was interrupted", "verb", body.Verb, "by", body.By, "error", err)
		line(DeadLetterLine{Event: "interrupted", Count: &count, Detail: "a database did not answer: give the order again with a new count"})
	}
}

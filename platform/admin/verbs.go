package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/saga"
)

// OrderRequest is the body of an order.
type OrderRequest struct {
	// By is who gives the order, Reason why; both are required.
	By     string `json:"by"`
	Reason string `json:"reason"`
	// Step is the one that retry, skip and complete are about; for signal it is the
	// await that takes it, or the type of the fact.
	Step string `json:"step,omitempty"`
	// Data is the reply of complete, the state of edit, the payload of signal.
	Data json.RawMessage `json:"data,omitempty"`
	// ID of a signal: one that comes twice with the same id counts once.
	ID string `json:"id,omitempty"`
}

// OrderResult is the answer to an order.
type OrderResult struct {
	DryRun bool `json:"dry_run"`
	// Saga is how it stands after the order.
	Saga Saga `json:"saga"`
	// Sends is what the order made it send.
	Sends []saga.Planned `json:"sends"`
}

// BulkRequest is the body of a bulk order.
type BulkRequest struct {
	Verb   saga.Verb       `json:"verb"`
	By     string          `json:"by"`
	Reason string          `json:"reason"`
	Step   string          `json:"step,omitempty"`
	Data   json.RawMessage `json:"data,omitempty"`
	Filter BulkFilter      `json:"filter"`
	// ExpectedCount is how many sagas the filter must select, or nothing is done. A
	// dry run needs none.
	ExpectedCount int  `json:"expected_count,omitempty"`
	DryRun        bool `json:"dry_run,omitempty"`
	// Rate is how many sagas are told per second: 50 by default.
	Rate float64 `json:"rate,omitempty"`
}

// BulkFilter selects sagas as the list does.
type BulkFilter struct {
	Status        saga.Status       `json:"status,omitempty"`
	Definition    string            `json:"definition,omitempty"`
	Code          string            `json:"code,omitempty"`
	Step          string            `json:"step,omitempty"`
	Attributes    map[string]string `json:"attributes,omitempty"`
	CreatedAfter  time.Time         `json:"created_after,omitzero"`
	CreatedBefore time.Time         `json:"created_before,omitzero"`
	UpdatedBefore time.Time         `json:"updated_before,omitzero"`
}

// BulkLine is one line of the answer to a bulk order.
type BulkLine struct {
	// Event is selected, then saga for each, then finished or interrupted.
	Event string `json:"event"`
	// Count is set but for an event saga.
	Count *saga.BulkCount `json:"count,omitempty"`
	// Saga is set for an event saga.
	Saga *saga.BulkItem `json:"saga,omitempty"`
	// Detail tells why it was interrupted.
	Detail string `json:"detail,omitempty"`
}

// Limits of a body: data beside the rest.
const (
	bodyBytesMax   = broker.MessageBytesMax + 64<<10
	byBytesMax     = 200
	reasonBytesMax = 1000
)

func (a *api) preview(w http.ResponseWriter, r *http.Request) {
	preview, err := a.operator.Preview(r.Context(), r.PathValue("id"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if preview.Sends == nil {
		preview.Sends = []saga.Planned{}
	}
	w.Header().Set("ETag", etag(preview.Revision))
	writeJSON(w, preview)
}

// order gives an order to the saga that the path names before the colon.
func (a *api) order(w http.ResponseWriter, r *http.Request) {
	id, name, ok := strings.Cut(r.PathValue("target"), ":")
	verb := saga.Verb(name)
	if !ok || verb != saga.SendSignal && !slices.Contains(saga.Verbs(), verb) {
		refuse(w, r, http.StatusNotFound, "verb_not_found", fmt.Sprintf("post to /admin/v1/sagas/{id}:VERB, where VERB is one of %s, signal", verbs()))
		return
	}
	when, ok := a.condition(w, r)
	if !ok {
		return
	}
	var body OrderRequest
	if !a.read(w, r, &body) || !a.signed(w, r, body.By, body.Reason) {
		return
	}
	if body.ID != "" && verb != saga.SendSignal {
		refuse(w, r, http.StatusUnprocessableEntity, "invalid_request", "id is for signal only")
		return
	}
	order := saga.Order{Verb: verb, By: body.By, Reason: body.Reason, Step: body.Step, Data: body.Data}
	var (
		told saga.Told
		err  error
	)
	if verb == saga.SendSignal {
		told, err = a.operator.Signal(r.Context(), id, body.ID, order, when)
	} else {
		told, err = a.operator.Order(r.Context(), id, order, when)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if told.Sends == nil {
		told.Sends = []saga.Planned{}
	}
	if !when.DryRun {
		w.Header().Set("ETag", etag(told.Revision))
	}
	writeJSON(w, OrderResult{DryRun: when.DryRun, Saga: Saga{Instance: told.Saga, Revision: told.Revision}, Sends: told.Sends})
}

func verbs() string {
	names := make([]string, 0, len(saga.Verbs()))
	for _, verb := range saga.Verbs() {
		names = append(names, string(verb))
	}
	return strings.Join(names, ", ")
}

// condition reads dry_run and If-Match.
func (a *api) condition(w http.ResponseWriter, r *http.Request) (when saga.Condition, ok bool) {
	query := r.URL.Query()
	for name := range query {
		if name != "dry_run" {
			refuse(w, r, http.StatusBadRequest, "unknown_parameter", fmt.Sprintf("there is no parameter %q", name))
			return when, false
		}
	}
	switch query.Get("dry_run") {
	case "", "false":
	case "true":
		when.DryRun = true
	default:
		refuse(w, r, http.StatusBadRequest, "invalid_dry_run", "dry_run must be true or false")
		return when, false
	}
	match := r.Header.Get("If-Match")
	if match == "" || match == "*" {
		return when, true
	}
	revision, err := strconv.ParseInt(strings.Trim(match, `"`), 10, 64)
	if err != nil || revision < 1 || match != etag(revision) {
		refuse(w, r, http.StatusBadRequest, "invalid_if_match", `If-Match must be the ETag of the saga, such as "7"`)
		return when, false
	}
	when.Revision = revision
	return when, true
}

// read decodes a body; it answers itself when that cannot be done.
func (a *api) read(w http.ResponseWriter, r *http.Request, into any) bool {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		refuse(w, r, http.StatusUnsupportedMediaType, "unsupported_media_type", "the body must be JSON: set Content-Type to application/json")
		return false
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		refuse(w, r, http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("the body has more than %d bytes", bodyBytesMax))
		return false
	} else if err != nil {
		refuse(w, r, http.StatusBadRequest, "body_unreadable", "the body could not be read")
		return false
	}
	if err := jsonv2.Unmarshal(data, into, jsonv2.RejectUnknownMembers(true)); err != nil {
		refuse(w, r, http.StatusBadRequest, "invalid_body", "the body is not what it should be: "+strings.TrimPrefix(err.Error(), "json: "))
		return false
	}
	return true
}

// signed checks that somebody gives the order and says why.
func (a *api) signed(w http.ResponseWriter, r *http.Request, by, reason string) bool {
	switch {
	case by == "" || reason == "":
		refuse(w, r, http.StatusUnprocessableEntity, "reason_required", "by and reason tell who gives the order and why: they are kept with what was done")
	case len(by) > byBytesMax || len(reason) > reasonBytesMax:
		refuse(w, r, http.StatusUnprocessableEntity, "invalid_request", fmt.Sprintf("by has at most %d bytes, reason at most %d", byBytesMax, reasonBytesMax))
	default:
		return true
	}
	return false
}

// bulk gives an order to many sagas and tells of each, one JSON document a line.
func (a *api) bulk(w http.ResponseWriter, r *http.Request) {
	var body BulkRequest
	if !a.read(w, r, &body) || !a.signed(w, r, body.By, body.Reason) {
		return
	}
	if !slices.Contains(saga.Verbs(), body.Verb) {
		refuse(w, r, http.StatusUnprocessableEntity, "invalid_verb", "verb must be one of "+verbs())
		return
	}
	if err := checkStatus(body.Filter.Status); err != nil {
		refuse(w, r, http.StatusUnprocessableEntity, "invalid_status", err.Error())
		return
	}
	if body.Rate < 0 || body.Rate > 1000 {
		refuse(w, r, http.StatusUnprocessableEntity, "invalid_rate", "rate must be at most 1000 a second")
		return
	}
	f := body.Filter
	order := saga.Bulk{
		Order: saga.Order{Verb: body.Verb, By: body.By, Reason: body.Reason, Step: body.Step, Data: body.Data},
		Filter: saga.Filter{
			Status: f.Status, Definition: f.Definition, Code: f.Code, Step: f.Step, Attributes: f.Attributes,
			CreatedAfter: f.CreatedAfter, CreatedBefore: f.CreatedBefore, UpdatedBefore: f.UpdatedBefore,
		},
		Expected: body.ExpectedCount, Rate: body.Rate, DryRun: body.DryRun,
	}
	lines, out, begun := json.NewEncoder(w), http.NewResponseController(w), false
	line := func(l BulkLine) {
		_ = lines.Encode(l) // the client is gone when this fails, and then the context ends
		_ = out.Flush()
	}
	count, err := a.operator.Bulk(r.Context(), order, func(selected int) {
		begun = true
		w.Header().Set("Content-Type", "application/jsonl")
		w.Header().Set("Cache-Control", "no-store")
		line(BulkLine{Event: "selected", Count: &saga.BulkCount{Selected: selected}})
	}, func(item saga.BulkItem) { line(BulkLine{Event: "saga", Saga: &item}) })
	switch {
	case err == nil:
		line(BulkLine{Event: "finished", Count: &count})
	case !begun:
		a.fail(w, r, err)
	default:
		a.logger.WarnContext(r.Context(), "bulk order was interrupted", "verb", body.Verb, "by", body.By, "error", err)
		line(BulkLine{Event: "interrupted", Count: &count, Detail: "the saga store did not answer: give the order again with a new count"})
	}
}

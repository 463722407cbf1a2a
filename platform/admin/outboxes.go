package admin

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/countermand/countermand/platform/outbox/operate"
)

// Outboxes is the body of what waits in the outboxes.
type Outboxes struct {
	Outboxes []operate.Status `json:"outboxes"`
}

// OutboxRows is the body of a list of rows.
type OutboxRows struct {
	Rows []operate.Row `json:"rows"`
}

// OutboxFlushed is the answer to a flush.
type OutboxFlushed struct {
	Outboxes []operate.Flushed `json:"outboxes"`
}

// OutboxOrder is the body of an order about a row; both are required.
type OutboxOrder struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// OutboxResult is the answer to an order about a row.
type OutboxResult struct {
	DryRun bool `json:"dry_run"`
	operate.Result
}

// Bounds of parameters.
const (
	stuckAge      = 5.0  // seconds, unless told
	stuckLimit    = 50   // unless told
	flushWait     = 10.0 // seconds, unless told
	flushWaitMax  = 30.0
	stuckAgeLimit = 10 * 365 * 24 * 3600.0
)

// outboxQuery reads the service and the numbers that the parameters of those names
// are, each at most its bound; it answers itself when they are wrong.
func (a *messagingAPI) outboxQuery(w http.ResponseWriter, r *http.Request, numbers map[string]*float64, bounds map[string]float64) ([]*operate.Outbox, bool) {
	query, service := r.URL.Query(), ""
	for _, name := range sortedNames(query) {
		value := query.Get(name)
		if into, ok := numbers[name]; ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil || !(n >= 0 && n <= bounds[name]) {
				refuse(w, r, http.StatusBadRequest, "invalid_"+name, fmt.Sprintf("%s must be a number from 0 to %g", name, bounds[name]))
				return nil, false
			}
			*into = n
			continue
		}
		if name != "service" {
			refuse(w, r, http.StatusBadRequest, "unknown_parameter", fmt.Sprintf("there is no parameter %q", name))
			return nil, false
		}
		service = value
	}
	boxes := a.messaging.outboxes(service)
	if len(boxes) == 0 && service != "" {
		refuse(w, r, http.StatusNotFound, "service_not_found", fmt.Sprintf("no service %q is in this process", service))
		return nil, false
	}
	return boxes, true
}

func (a *messagingAPI) outboxes(w http.ResponseWriter, r *http.Request) {
	boxes, ok := a.outboxQuery(w, r, nil, nil)
	if !ok {
		return
	}
	body := Outboxes{Outboxes: []operate.Status{}}
	for _, box := range boxes {
		status, err := box.Status(r.Context())
		if err != nil {
			a.fail(w, r, err)
			return
		}
		body.Outboxes = append(body.Outboxes, status)
	}
	writeJSON(w, body)
}

func (a *messagingAPI) stuck(w http.ResponseWriter, r *http.Request) {
	age, limit := stuckAge, float64(stuckLimit)
	boxes, ok := a.outboxQuery(w, r, map[string]*float64{"older": &age, "limit": &limit}, map[string]float64{"older": stuckAgeLimit, "limit": operate.StuckMax})
	if !ok {
		return
	}
	body := OutboxRows{Rows: []operate.Row{}}
	for _, box := range boxes {
		rows, err := box.Stuck(r.Context(), time.Duration(age*float64(time.Second)), int(limit))
		if err != nil {
			a.fail(w, r, err)
			return
		}
		body.Rows = append(body.Rows, rows...)
	}
	writeJSON(w, body)
}

func (a *messagingAPI) flush(w http.ResponseWriter, r *http.Request) {
	wait := flushWait
	boxes, ok := a.outboxQuery(w, r, map[string]*float64{"wait": &wait}, map[string]float64{"wait": flushWaitMax})
	if !ok {
		return
	}
	body := OutboxFlushed{Outboxes: []operate.Flushed{}}
	for limit := time.Now().Add(time.Duration(wait * float64(time.Second))); len(boxes) > 0; boxes = boxes[1:] {
		flushed, err := boxes[0].Flush(r.Context(), time.Until(limit))
		if err != nil {
			a.fail(w, r, err)
			return
		}
		body.Outboxes = append(body.Outboxes, flushed)
	}
	writeJSON(w, body)
}

// outboxRowOf finds what a path names; it answers itself when there is no such thing.
func (a *messagingAPI) outboxRowOf(w http.ResponseWriter, r *http.Request, id string) (*operate.Outbox, int64, bool) {
	service, number, ok := operate.ParseID(id)
	if ok {
		if boxes := a.messaging.outboxes(service); len(boxes) == 1 {
			return boxes[0], number, true
		}
	}
	refuse(w, r, http.StatusNotFound, "outbox_row_not_found", "there is no row of this id in this process; ids look like order.17")
	return nil, 0, false
}

func (a *messagingAPI) outboxRow(w http.ResponseWriter, r *http.Request) {
	box, id, ok := a.outboxRowOf(w, r, r.PathValue("id"))
	if !ok {
		return
	}
	detail, err := box.Get(r.Context(), id)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeJSON(w, detail)
}

// outboxOrder gives an order to the row that the path names before the colon.
func (a *messagingAPI) outboxOrder(w http.ResponseWriter, r *http.Request) {
	name, verb, _ := strings.Cut(r.PathValue("target"), ":")
	if verb != operate.VerbRequeue && verb != operate.VerbDiscard {
		refuse(w, r, http.StatusNotFound, "verb_not_found", "post to /admin/v1/outbox-rows/{id}:VERB, where VERB is requeue or discard")
		return
	}
	box, id, ok := a.outboxRowOf(w, r, name)
	if !ok {
		return
	}
	when, ok := a.condition(w, r)
	if !ok {
		return
	}
	var body OutboxOrder
	if !a.read(w, r, &body) || !a.signed(w, r, body.By, body.Reason) {
		return
	}
	give := box.Requeue
	if verb == operate.VerbDiscard {
		give = box.Discard
	}
	result, err := give(r.Context(), id, operate.Order{By: body.By, Reason: body.Reason, DryRun: when.DryRun})
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeJSON(w, OutboxResult{DryRun: when.DryRun, Result: result})
}

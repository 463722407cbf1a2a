package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrBadCursor is returned by [Operations] for a cursor that it has not given.
var ErrBadCursor = errors.New("cursor is not one that a list returned")

// OperationFilter selects operations; empty fields select all.
type OperationFilter struct {
	// Tenant owns them; empty: nobody does. It always counts.
	Tenant string
	// Commands are the types of the commands that began them; never empty.
	Commands []string
	Status   Status
	// CreatedAfter and CreatedBefore bound when they began.
	CreatedAfter, CreatedBefore time.Time
	// Cursor continues after the last operation of a page.
	Cursor string
	Limit  int
}

// OperationPage is a part of a list, newest first.
type OperationPage struct {
	Operations []Operation
	// Next is the cursor of the next page; empty when this is the last.
	Next string
}

// OperationSummary is an operation in a list.
type OperationSummary struct {
	ID        string       `json:"id"`
	Status    Status       `json:"status"`
	Done      bool         `json:"done"`
	Command   string       `json:"command"`
	Saga      *SagaVersion `json:"saga,omitempty"`
	CreatedAt time.Time    `json:"created_at"`
	UpdatedAt time.Time    `json:"updated_at"`
	Links     struct {
		Self string `json:"self"`
	} `json:"links"`
}

// operationList is the body of a list.
type operationList struct {
	Operations []OperationSummary `json:"operations"`
	Next       string             `json:"next,omitempty"`
}

const (
	listLimitDefault = 50
	listLimitMax     = 200
)

// serveOperations answers GET /v1/operations with the sender's own operations: those
// of its tenant that commands from outside began.
func (g *Gateway) serveOperations(x *exchange, r *http.Request, s *snapshot) {
	filter, problem := s.table.operationFilter(r.URL.Query())
	if problem != "" {
		x.fail(r, codeQueryInvalid, problem)
		return
	}
	filter.Tenant = IdentityOf(r.Context()).Tenant
	ctx, cancel := context.WithTimeout(r.Context(), g.config.LookupTimeout)
	defer cancel()
	g.metrics.reads.Inc()
	page, err := g.deps.Operations.List(ctx, filter)
	switch {
	case errors.Is(err, ErrBadCursor):
		x.fail(r, codeQueryInvalid, "cursor: it is none that a list has returned.")
		return
	case err != nil:
		g.failOperations(x, r, err, "The operations cannot be listed now.")
		return
	}
	list := operationList{Operations: make([]OperationSummary, len(page.Operations)), Next: page.Next}
	for i, op := range page.Operations {
		o := &list.Operations[i]
		*o = OperationSummary{
			ID: op.ID, Status: op.Status, Done: op.Status.done(), Command: op.Command, Saga: op.Saga,
			CreatedAt: op.CreatedAt, UpdatedAt: op.UpdatedAt,
		}
		o.Links.Self = operationPath(op.ID)
	}
	body, err := encode(list)
	if err != nil {
		x.failInternal(r, "encode operations", err)
		return
	}
	h := x.Header()
	h.Set("Cache-Control", noStore)
	if page.Next != "" {
		next := r.URL.Query()
		next.Set("cursor", page.Next)
		h.Set("Link", "</v1/operations?"+next.Encode()+`>; rel="next"`)
	}
	x.json(http.StatusOK, contentTypeJSON, body)
}

// operationFilter reads the query of a list. problem tells what is wrong with it.
func (t *Table) operationFilter(query url.Values) (filter OperationFilter, problem string) {
	filter.Limit = listLimitDefault
	for _, command := range sortedKeys(t.commands) {
		if t.commands[command].Saga {
			filter.Commands = append(filter.Commands, command)
		}
	}
	for _, name := range sortedKeys(query) {
		value := query.Get(name)
		if len(query[name]) > 1 {
			return filter, name + ": give it once."
		}
		var err error
		switch name {
		case "status":
			filter.Status = Status(value)
			known := []Status{StatusRunning, StatusCompensating, StatusCompleted, StatusCompensated, StatusStuck, StatusAbandoned}
			if !slices.Contains(known, filter.Status) {
				return filter, "status: want one of running, compensating, completed, compensated, stuck and abandoned."
			}
		case "command":
			if !slices.Contains(filter.Commands, value) {
				return filter, "command: want one of " + strings.Join(filter.Commands, ", ") + "."
			}
			filter.Commands = []string{value}
		case "created_after":
			filter.CreatedAfter, err = time.Parse(time.RFC3339Nano, value)
		case "created_before":
			filter.CreatedBefore, err = time.Parse(time.RFC3339Nano, value)
		case "cursor":
			filter.Cursor = value
		case "limit":
			if filter.Limit, err = strconv.Atoi(value); err != nil || filter.Limit < 1 || filter.Limit > listLimitMax {
				return filter, "limit: want a number from 1 to " + strconv.Itoa(listLimitMax) + "."
			}
		default:
			return filter, name + ": want command, created_after, created_before, cursor, limit or status."
		}
		if err != nil {
			return filter, name + ": want an RFC 3339 time such as 2026-11-22T10:00:00Z."
		}
	}
	return filter, ""
}

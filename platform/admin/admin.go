// Package admin is the operators' HTTP API. It is served on the admin listener,
// which belongs on loopback or a private network: it needs no credential and
// shows payloads.
//
//	GET /admin/v1/sagas        list, newest first; ?status= &definition= &cursor= &limit=
//	GET /admin/v1/sagas/{id}   one saga with its steps, state, requests and replies
//	GET /admin/v1/sagas:counts how many sagas have each status
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/countermand/countermand/platform/saga"
)

// Sagas is what the API reads; [saga.Reader] is one.
type Sagas interface {
	Get(ctx context.Context, id string) (saga.Instance, int64, error)
	List(ctx context.Context, filter saga.Filter) (saga.Page, error)
	Counts(ctx context.Context) (map[saga.Status]int, error)
}

// List is the body of a list of sagas.
type List struct {
	Sagas []saga.Summary `json:"sagas"`
	// Next continues the list as ?cursor=; absent on the last page.
	Next string `json:"next,omitempty"`
}

// Saga is the body of one saga.
type Saga struct {
	saga.Instance
	// Revision counts the saga's transitions.
	Revision int64 `json:"revision"`
}

// Register adds the API to mux.
func Register(mux *http.ServeMux, sagas Sagas, logger *slog.Logger) {
	a := api{sagas: sagas, logger: logger}
	mux.HandleFunc("GET /admin/v1/sagas", a.list)
	mux.HandleFunc("GET /admin/v1/sagas:counts", a.counts)
	mux.HandleFunc("GET /admin/v1/sagas/{id}", a.get)
}

type api struct {
	sagas  Sagas
	logger *slog.Logger
}

func (a api) list(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	filter := saga.Filter{
		Status: saga.Status(query.Get("status")), Definition: query.Get("definition"), Cursor: query.Get("cursor"),
	}
	switch filter.Status {
	case "", saga.Running, saga.Compensating, saga.Completed, saga.Compensated, saga.Stuck, saga.Abandoned:
	default:
		problem(w, http.StatusBadRequest, "invalid_status",
			"status must be one of running, compensating, completed, compensated, stuck, abandoned")
		return
	}
	if limit := query.Get("limit"); limit != "" {
		n, err := strconv.Atoi(limit)
		if err != nil || n < 1 || n > 500 {
			problem(w, http.StatusBadRequest, "invalid_limit", "limit must be a number from 1 to 500")
			return
		}
		filter.Limit = n
	}
	page, err := a.sagas.List(r.Context(), filter)
	if errors.Is(err, saga.ErrBadCursor) {
		problem(w, http.StatusBadRequest, "invalid_cursor", "cursor must be the next of an earlier page")
		return
	}
	if err != nil {
		a.internal(w, r, err)
		return
	}
	if page.Sagas == nil {
		page.Sagas = []saga.Summary{}
	}
	write(w, http.StatusOK, "application/json", List{Sagas: page.Sagas, Next: page.Next})
}

func (a api) get(w http.ResponseWriter, r *http.Request) {
	in, revision, err := a.sagas.Get(r.Context(), r.PathValue("id"))
	switch {
	case errors.Is(err, saga.ErrNotFound):
		problem(w, http.StatusNotFound, "saga_not_found", "there is no saga of this id")
	case err != nil:
		a.internal(w, r, err)
	default:
		w.Header().Set("ETag", `"`+strconv.FormatInt(revision, 10)+`"`)
		write(w, http.StatusOK, "application/json", Saga{Instance: in, Revision: revision})
	}
}

func (a api) counts(w http.ResponseWriter, r *http.Request) {
	counts, err := a.sagas.Counts(r.Context())
	if err != nil {
		a.internal(w, r, err)
		return
	}
	write(w, http.StatusOK, "application/json", counts)
}

func (a api) internal(w http.ResponseWriter, r *http.Request, err error) {
	a.logger.ErrorContext(r.Context(), "admin request failed", "path", r.URL.Path, "error", err)
	problem(w, http.StatusServiceUnavailable, "store_unavailable", "the saga store did not answer; see the log")
}

func problem(w http.ResponseWriter, status int, code, detail string) {
	write(w, status, "application/problem+json", map[string]any{
		"type": "urn:countermand:problem:" + code, "title": http.StatusText(status), "status": status, "code": code, "detail": detail,
	})
}

func write(w http.ResponseWriter, status int, contentType string, body any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone when this fails
}

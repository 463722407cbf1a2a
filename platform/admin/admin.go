// Package admin is the operators' HTTP API. It is served on the admin listener,
// which belongs on loopback or a private network: it needs no credential and
// shows payloads. Its contract is openapi.json, served at /admin/openapi.json.
//
//	GET  /admin/v1/sagas                   list, newest first
//	GET  /admin/v1/sagas:counts            how many have each status
//	GET  /admin/v1/sagas:waiting           how many wait at each step
//	GET  /admin/v1/sagas/{id}              one saga with its steps, state, requests and replies
//	GET  /admin/v1/sagas/{id}/history      every transition, checked
//	GET  /admin/v1/sagas/{id}/preview      what a compensation would send
//	GET  /admin/v1/sagas/{id}/export       everything there is, for a test or an archive
//	POST /admin/v1/sagas/{id}:VERB         retry, skip, complete, compensate, cancel, pause, resume, edit, abandon, signal
//	POST /admin/v1/sagas:bulk              one verb to all sagas that a filter selects
//	GET  /admin/v1/definitions             what engines have run
//	GET  /admin/v1/definitions/{name}      one of them
//	GET  /admin/v1/definitions/{name}/graph as JSON, Mermaid or SVG
package admin

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/countermand/countermand/platform/saga"
)

//go:embed openapi.json
var document []byte

// OpenAPI returns the contract of the API, an OpenAPI 3.1 document in JSON.
func OpenAPI() []byte { return bytes.Clone(document) }

// Reader is what the API reads; [saga.Reader] is one.
type Reader interface {
	Get(ctx context.Context, id string) (saga.Instance, int64, error)
	List(ctx context.Context, filter saga.Filter) (saga.Page, error)
	Counts(ctx context.Context) (map[saga.Status]int, error)
	Waiting(ctx context.Context) (map[string]map[string]int, error)
	History(ctx context.Context, id string) ([]saga.Entry, error)
	Export(ctx context.Context, id string) (saga.Export, error)
	Graph(ctx context.Context, name string, version int) (saga.Graph, error)
	Graphs(ctx context.Context) ([]saga.Graph, error)
}

// Operator is what gives orders; [saga.Engine] is one.
type Operator interface {
	Order(ctx context.Context, id string, order saga.Order, when saga.Condition) (saga.Told, error)
	Signal(ctx context.Context, id, signalID string, order saga.Order, when saga.Condition) (saga.Told, error)
	Preview(ctx context.Context, id string) (saga.Preview, error)
	Bulk(ctx context.Context, bulk saga.Bulk, begin func(selected int), each func(saga.BulkItem)) (saga.BulkCount, error)
}

// Config of the API.
type Config struct {
	Reader Reader
	// Operator is nil where sagas can only be read: there are no verbs then, and no
	// previews.
	Operator Operator
	Logger   *slog.Logger
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

// History is the body of a history.
type History struct {
	Entries []saga.Entry `json:"entries"`
}

// Definitions is the body of the list of definitions.
type Definitions struct {
	Definitions []saga.Graph `json:"definitions"`
}

// Register adds the API to mux.
func Register(mux *http.ServeMux, config Config) {
	a := &api{reader: config.Reader, operator: config.Operator, logger: config.Logger}
	handle := func(pattern string, handler http.HandlerFunc) { mux.Handle(pattern, Protect(handler)) }
	handle("GET /admin/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document) // the client is gone when this fails
	})
	handle("GET /admin/v1/sagas", a.list)
	handle("GET /admin/v1/sagas:counts", a.counts)
	handle("GET /admin/v1/sagas:waiting", a.waiting)
	handle("GET /admin/v1/sagas/{id}", a.get)
	handle("GET /admin/v1/sagas/{id}/history", a.history)
	handle("GET /admin/v1/sagas/{id}/export", a.export)
	handle("GET /admin/v1/definitions", a.definitions)
	handle("GET /admin/v1/definitions/{name}", a.definition)
	handle("GET /admin/v1/definitions/{name}/graph", a.graph)
	if a.operator == nil {
		return
	}
	handle("GET /admin/v1/sagas/{id}/preview", a.preview)
	handle("POST /admin/v1/sagas/{target}", a.order)
	handle("POST /admin/v1/sagas:bulk", a.bulk)
}

type api struct {
	reader   Reader
	operator Operator
	logger   *slog.Logger
}

func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

func write(w http.ResponseWriter, status int, contentType string, body any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone when this fails
}

func writeJSON(w http.ResponseWriter, body any) { write(w, http.StatusOK, "application/json", body) }

package schedule

import (
	"cmp"
	_ "embed" // of the contract
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

//go:embed openapi.json
var openAPI []byte

// OpenAPI returns the contract of what [Register] adds.
func OpenAPI() []byte { return openAPI }

// List is the body of a list of schedules.
type List struct {
	Schedules []Record `json:"schedules"`
	// Next continues the list as ?cursor=; absent on the last page.
	Next string `json:"next,omitempty"`
}

// FiringList is the body of a list of firings.
type FiringList struct {
	Firings []Firing `json:"firings"`
}

// NextList is the body of a list of future firings.
type NextList struct {
	Next []time.Time `json:"next"`
}

// Register adds the operators' HTTP API to mux. It belongs on the admin listener:
// it asks for no credential. Its contract is at /admin/schedules/openapi.json.
//
//	GET    /admin/v1/schedules                 list, by id; ?cursor= &limit=
//	GET    /admin/v1/schedules/{id}            one schedule with its state
//	PUT    /admin/v1/schedules/{id}            create with If-None-Match: *, replace with If-Match
//	DELETE /admin/v1/schedules/{id}            with If-Match
//	GET    /admin/v1/schedules/{id}/next       the next firings; ?n=
//	GET    /admin/v1/schedules/{id}/firings    the latest firings; ?limit=
//	POST   /admin/v1/schedules/{id}/pause      {"note": ""}
//	POST   /admin/v1/schedules/{id}/resume     {"note": ""}
//	POST   /admin/v1/schedules/{id}/trigger    {"force": false}
//	POST   /admin/v1/schedules/{id}/backfill   {"from": "", "to": "", "one_by_one": false, "again": false}
//
// The ETag is the revision: it changes with what operators state, not with every
// firing. If-Match is required to replace and to delete, where * stands for any
// revision, and heeded by pause, resume and backfill.
func Register(mux *http.ServeMux, scheduler *Scheduler, logger *slog.Logger) {
	a := api{scheduler, logger}
	for pattern, handle := range a.routes() {
		mux.HandleFunc(pattern, a.answering(handle))
	}
	mux.HandleFunc("GET /admin/schedules/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(openAPI) // the client is gone when this fails
	})
}

type api struct {
	scheduler *Scheduler
	logger    *slog.Logger
}

func (a api) routes() map[string]func(http.ResponseWriter, *http.Request) error {
	const one = "/admin/v1/schedules/{id}"
	return map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /admin/v1/schedules":   a.list,
		"GET " + one:                a.get,
		"PUT " + one:                a.put,
		"DELETE " + one:             a.delete,
		"GET " + one + "/next":      a.next,
		"GET " + one + "/firings":   a.firings,
		"POST " + one + "/pause":    a.pause,
		"POST " + one + "/resume":   a.resume,
		"POST " + one + "/trigger":  a.trigger,
		"POST " + one + "/backfill": a.backfill,
	}
}

func (a api) list(w http.ResponseWriter, r *http.Request) error {
	limit, err := number(r, "limit", 50, listMax)
	if err != nil {
		return err
	}
	cursor := r.URL.Query().Get("cursor")
	if cursor != "" && !idPattern.MatchString(cursor) {
		return failure{http.StatusBadRequest, "invalid_cursor", "cursor must be the next of an earlier page"}
	}
	records, err := a.scheduler.List(r.Context(), cursor, limit)
	if err != nil {
		return err
	}
	list := List{Schedules: append([]Record{}, records...)} // an empty list is [] in JSON
	if len(records) == limit {
		list.Next = records[limit-1].ID
	}
	return write(w, http.StatusOK, list)
}

func (a api) get(w http.ResponseWriter, r *http.Request) error {
	record, err := a.scheduler.Get(r.Context(), r.PathValue("id"))
	return a.record(w, http.StatusOK, record, err)
}

func (a api) put(w http.ResponseWriter, r *http.Request) error {
	var s Schedule
	if err := read(w, r, &s); err != nil {
		return err
	}
	id := r.PathValue("id")
	if s.ID = cmp.Or(s.ID, id); s.ID != id {
		return failure{http.StatusUnprocessableEntity, "invalid_schedule", "the id in the body is not that of the path"}
	}
	if r.Header.Get("If-None-Match") == "*" {
		record, err := a.scheduler.Create(r.Context(), s)
		return a.record(w, http.StatusCreated, record, err)
	}
	revision, err := match(r, true)
	if err != nil {
		return err
	}
	record, err := a.scheduler.Replace(r.Context(), s, revision)
	return a.record(w, http.StatusOK, record, err)
}

func (a api) delete(w http.ResponseWriter, r *http.Request) error {
	revision, err := match(r, true)
	if err != nil {
		return err
	}
	if err := a.scheduler.Delete(r.Context(), r.PathValue("id"), revision); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a api) next(w http.ResponseWriter, r *http.Request) error {
	n, err := number(r, "n", 10, nextMax)
	if err != nil {
		return err
	}
	times, err := a.scheduler.Next(r.Context(), r.PathValue("id"), n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, NextList{append([]time.Time{}, times...)})
}

func (a api) firings(w http.ResponseWriter, r *http.Request) error {
	limit, err := number(r, "limit", 50, listMax)
	if err != nil {
		return err
	}
	firings, err := a.scheduler.Firings(r.Context(), r.PathValue("id"), limit)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, FiringList{append([]Firing{}, firings...)})
}

// noted is the body of pause and resume.
type noted struct {
	Note string `json:"note"`
}

func (a api) pause(w http.ResponseWriter, r *http.Request) error {
	var body noted
	revision, err := verb(w, r, &body)
	if err != nil {
		return err
	}
	record, err := a.scheduler.Pause(r.Context(), r.PathValue("id"), body.Note, revision)
	return a.record(w, http.StatusOK, record, err)
}

func (a api) resume(w http.ResponseWriter, r *http.Request) error {
	var body noted
	revision, err := verb(w, r, &body)
	if err != nil {
		return err
	}
	record, err := a.scheduler.Resume(r.Context(), r.PathValue("id"), body.Note, revision)
	return a.record(w, http.StatusOK, record, err)
}

func (a api) trigger(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Force bool `json:"force"`
	}
	if _, err := verb(w, r, &body); err != nil {
		return err
	}
	firing, err := a.scheduler.Trigger(r.Context(), r.PathValue("id"), body.Force)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, firing)
}

func (a api) backfill(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		From     time.Time `json:"from"`
		To       time.Time `json:"to"`
		OneByOne bool      `json:"one_by_one"`
		Again    bool      `json:"again"`
	}
	revision, err := verb(w, r, &body)
	if err != nil {
		return err
	}
	record, err := a.scheduler.Backfill(r.Context(), r.PathValue("id"),
		Backfill{From: body.From, To: body.To, OneByOne: body.OneByOne, Again: body.Again}, revision)
	return a.record(w, http.StatusOK, record, err)
}

// record answers with a schedule and its ETag.
func (a api) record(w http.ResponseWriter, status int, record Record, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("ETag", `"`+strconv.FormatInt(record.Revision, 10)+`"`)
	return write(w, status, record)
}

// failure is an answer that says no.
type failure struct {
	status int
	code   string
	detail string
}

func (f failure) Error() string { return f.code + ": " + f.detail }

// answering turns errors into problem documents.
func (a api) answering(handle func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := handle(w, r)
		if err == nil {
			return
		}
		var f failure
		switch {
		case errors.As(err, &f):
		case errors.Is(err, ErrNotFound):
			f = failure{http.StatusNotFound, "schedule_not_found", "there is no schedule of this id"}
		case errors.Is(err, ErrExists):
			f = failure{http.StatusPreconditionFailed, "schedule_exists", "there is a schedule of this id; use If-Match to replace it"}
		case errors.Is(err, ErrRevision):
			f = failure{http.StatusPreconditionFailed, "revision_mismatch", err.Error()}
		case errors.Is(err, ErrOverlap):
			f = failure{http.StatusConflict, "saga_running", "the saga of an earlier firing has not ended; force it to start another all the same"}
		case errors.Is(err, ErrInvalid):
			f = failure{http.StatusUnprocessableEntity, "invalid_schedule", strings.ReplaceAll(strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": "), "\n", "; ")}
		default:
			a.logger.ErrorContext(r.Context(), "admin request failed", "path", r.URL.Path, "error", err)
			f = failure{http.StatusServiceUnavailable, "store_unavailable", "the schedules could not be read or written; see the log"}
		}
		send(w, f.status, "application/problem+json", map[string]any{
			"type": "urn:countermand:problem:" + f.code, "title": http.StatusText(f.status), "status": f.status, "code": f.code, "detail": f.detail,
		})
	}
}

// bodyBytesMax bounds a request: the data of an action and what is around it.
const bodyBytesMax = 2 * dataBytesMax

// read decodes a JSON body with no unknown fields.
func read(w http.ResponseWriter, r *http.Request, into any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return failure{http.StatusBadRequest, "invalid_json", err.Error()}
	}
	if decoder.More() {
		return failure{http.StatusBadRequest, "invalid_json", "there is more than one JSON value"}
	}
	return nil
}

// verb reads the body, which may be left out, and the revision of a verb.
func verb(w http.ResponseWriter, r *http.Request, into any) (revision int64, err error) {
	err = read(w, r, into)
	var f failure
	if errors.As(err, &f) && f.detail == io.EOF.Error() {
		err = nil
	}
	if err != nil {
		return 0, err
	}
	return match(r, false)
}

// match returns the revision that If-Match names.
func match(r *http.Request, required bool) (int64, error) {
	tag := r.Header.Get("If-Match")
	switch {
	case tag == "*" || tag == "" && !required:
		return AnyRevision, nil
	case tag == "":
		return 0, failure{
			http.StatusPreconditionRequired, "precondition_required",
			"send If-Match with the ETag that you have read, or If-None-Match: * to create",
		}
	}
	revision, err := strconv.ParseInt(strings.Trim(tag, `"`), 10, 64)
	if err != nil || revision < 1 {
		return 0, failure{http.StatusPreconditionFailed, "revision_mismatch", "If-Match is no ETag of a schedule"}
	}
	return revision, nil
}

// number reads a count from the query.
func number(r *http.Request, name string, otherwise, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, failure{http.StatusBadRequest, "invalid_" + name, name + " must be a number from 1 to " + strconv.Itoa(most)}
	}
	return n, nil
}

func write(w http.ResponseWriter, status int, body any) error {
	send(w, status, "application/json", body)
	return nil
}

func send(w http.ResponseWriter, status int, contentType string, body any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone when this fails
}

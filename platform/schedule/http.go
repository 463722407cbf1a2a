package schedule

import (
	"cmp"
	_ "embed" // of the contract
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/countermand/countermand/platform/answer"
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
	limit, err := answer.Number(r, "limit", 50, listMax)
	if err != nil {
		return err
	}
	cursor := r.URL.Query().Get("cursor")
	if cursor != "" && !idPattern.MatchString(cursor) {
		return answer.No(http.StatusBadRequest, "invalid_cursor", "cursor must be the next of an earlier page")
	}
	records, err := a.scheduler.List(r.Context(), cursor, limit)
	if err != nil {
		return err
	}
	list := List{Schedules: append([]Record{}, records...)} // an empty list is [] in JSON
	if len(records) == limit {
		list.Next = records[limit-1].ID
	}
	return answer.JSON(w, http.StatusOK, list)
}

func (a api) get(w http.ResponseWriter, r *http.Request) error {
	record, err := a.scheduler.Get(r.Context(), r.PathValue("id"))
	return a.record(w, http.StatusOK, record, err)
}

func (a api) put(w http.ResponseWriter, r *http.Request) error {
	var s Schedule
	if err := answer.Read(w, r, &s, bodyBytesMax); err != nil {
		return err
	}
	id := r.PathValue("id")
	if s.ID = cmp.Or(s.ID, id); s.ID != id {
		return answer.No(http.StatusUnprocessableEntity, "invalid_schedule", "the id in the body is not that of the path")
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
	n, err := answer.Number(r, "n", 10, nextMax)
	if err != nil {
		return err
	}
	times, err := a.scheduler.Next(r.Context(), r.PathValue("id"), n)
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, NextList{append([]time.Time{}, times...)})
}

func (a api) firings(w http.ResponseWriter, r *http.Request) error {
	limit, err := answer.Number(r, "limit", 50, listMax)
	if err != nil {
		return err
	}
	firings, err := a.scheduler.Firings(r.Context(), r.PathValue("id"), limit)
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, FiringList{append([]Firing{}, firings...)})
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
	return answer.JSON(w, http.StatusOK, firing)
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
	return answer.JSON(w, status, record)
}

// answering turns errors into problem documents.
func (a api) answering(handle func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return answer.Handler(func(_ http.ResponseWriter, r *http.Request, err error) answer.Problem {
		switch {
		case errors.Is(err, ErrNotFound):
			return answer.No(http.StatusNotFound, "schedule_not_found", "there is no schedule of this id")
		case errors.Is(err, ErrExists):
			return answer.No(http.StatusPreconditionFailed, "schedule_exists", "there is a schedule of this id; use If-Match to replace it")
		case errors.Is(err, ErrRevision):
			return answer.No(http.StatusPreconditionFailed, "revision_mismatch", err.Error())
		case errors.Is(err, ErrOverlap):
			return answer.No(http.StatusConflict, "saga_running", "the saga of an earlier firing has not ended; force it to start another all the same")
		case errors.Is(err, ErrInvalid):
			return answer.No(http.StatusUnprocessableEntity, "invalid_schedule", strings.ReplaceAll(strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": "), "\n", "; "))
		}
		a.logger.ErrorContext(r.Context(), "admin request failed", "path", r.URL.Path, "error", err)
		return answer.No(http.StatusServiceUnavailable, "store_unavailable", "the schedules could not be read or written; see the log")
	}, handle)
}

// bodyBytesMax bounds a request: the data of an action and what is around it.
const bodyBytesMax = 2 * dataBytesMax

// verb reads the body, which may be left out, and the revision of a verb.
func verb(w http.ResponseWriter, r *http.Request, into any) (revision int64, err error) {
	err = answer.Read(w, r, into, bodyBytesMax)
	if p, ok := errors.AsType[answer.Problem](err); ok && p.Detail == io.EOF.Error() {
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
		return 0, answer.No(http.StatusPreconditionRequired, "precondition_required",
			"send If-Match with the ETag that you have read, or If-None-Match: * to create")
	}
	revision, err := strconv.ParseInt(strings.Trim(tag, `"`), 10, 64)
	if err != nil || revision < 1 {
		return 0, answer.No(http.StatusPreconditionFailed, "revision_mismatch", "If-Match is no ETag of a schedule")
	}
	return revision, nil
}

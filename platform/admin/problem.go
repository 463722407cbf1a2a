package admin

import (
	"errors"
	"net/http"

	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/saga"
)

// Problem is a problem document (RFC 9457) with the members this API adds.
type Problem struct {
	Type     string `json:"type"` // urn:countermand:problem:<code>
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty"` // the path asked for
	// Code names the problem for programs: one of [saga.OrderError] or of this API.
	Code string `json:"code"`
	// Retriable says whether the same request may succeed later.
	Retriable bool `json:"retriable"`
}

// statuses are those of the codes of orders that are refused.
var statuses = map[string]int{
	"saga_not_found":       http.StatusNotFound,
	"saga_ended":           http.StatusConflict,
	"past_pivot":           http.StatusConflict,
	"already_compensating": http.StatusConflict,
	"step_not_found":       http.StatusUnprocessableEntity,
	"step_not_waiting":     http.StatusConflict,
	"not_paused":           http.StatusConflict,
	"already_paused":       http.StatusConflict,
	"invalid_data":         http.StatusUnprocessableEntity,
	"invalid_verb":         http.StatusUnprocessableEntity,
	"reason_required":      http.StatusUnprocessableEntity,
	"revision_moved":       http.StatusPreconditionFailed,
	"definition_missing":   http.StatusConflict,
	"signal_not_awaited":   http.StatusUnprocessableEntity,
	"too_many_signals":     http.StatusConflict,
	"count_differs":        http.StatusConflict,
	"too_many_sagas":       http.StatusConflict,
}

func refuse(w http.ResponseWriter, r *http.Request, status int, code, detail string) {
	write(w, status, "application/problem+json", Problem{
		Type: "urn:countermand:problem:" + code, Title: http.StatusText(status), Status: status, Detail: detail,
		Instance: r.URL.Path, Code: code, Retriable: status == http.StatusServiceUnavailable,
	})
}

// fail answers with the problem that an error is.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	if refused, ok := errors.AsType[*saga.OrderError](err); ok {
		status, known := statuses[refused.Code]
		if !known {
			status = http.StatusConflict
		}
		refuse(w, r, status, refused.Code, refused.Message)
		return
	}
	switch {
	case errors.Is(err, saga.ErrNotFound):
		refuse(w, r, http.StatusNotFound, "saga_not_found", "there is no saga of this id")
	case errors.Is(err, saga.ErrBadCursor):
		refuse(w, r, http.StatusBadRequest, "invalid_cursor", "cursor must be the next of an earlier page")
	case errors.Is(err, saga.ErrTampered):
		a.logger.ErrorContext(r.Context(), "history of a saga was tampered with", "path", r.URL.Path, "error", err)
		refuse(w, r, http.StatusInternalServerError, "history_tampered", "the history does not hash to what the saga's row says: something else than an engine has changed it")
	case errors.Is(err, postgres.ErrCommitUnknown):
		a.logger.ErrorContext(r.Context(), "admin request failed", "path", r.URL.Path, "error", err)
		refuse(w, r, http.StatusServiceUnavailable, "outcome_unknown", "the database was lost while it was asked: read the saga's history before giving the order again")
	default:
		if r.Context().Err() == nil {
			a.logger.ErrorContext(r.Context(), "admin request failed", "path", r.URL.Path, "error", err)
		}
		refuse(w, r, http.StatusServiceUnavailable, "store_unavailable", "the saga store did not answer; see the log")
	}
}

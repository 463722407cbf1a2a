package operate

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/prompt"
)

// failure is an answer that says no.
type failure struct {
	status int
	code   string
	detail string
}

func (f failure) Error() string { return f.code + ": " + f.detail }

// answering turns errors into problem documents.
func answering(logger *slog.Logger, handle func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := handle(w, r)
		if err == nil {
			return
		}
		f, ok := errors.AsType[failure](err)
		switch {
		case ok:
		case errors.Is(err, budget.ErrNotFound), errors.Is(err, prompt.ErrNotFound):
			f = failure{http.StatusNotFound, "not_found", err.Error()}
		case errors.Is(err, budget.ErrTwice):
			f = failure{http.StatusConflict, "budget_exists", err.Error() + "; change that one, or delete it first"}
		case errors.Is(err, budget.ErrEnded):
			f = failure{http.StatusConflict, "attempt_ended", err.Error()}
		case errors.Is(err, budget.ErrInvalid):
			f = failure{http.StatusUnprocessableEntity, "invalid_budget", strings.ReplaceAll(strings.TrimPrefix(err.Error(), budget.ErrInvalid.Error()+": "), "\n", "; ")}
		case errors.Is(err, prompt.ErrInvalid):
			f = failure{http.StatusUnprocessableEntity, "invalid_prompt", strings.ReplaceAll(strings.TrimPrefix(err.Error(), prompt.ErrInvalid.Error()+": "), "\n", "; ")}
		default:
			logger.ErrorContext(r.Context(), "admin request failed", "path", r.URL.Path, "error", err)
			f = failure{http.StatusServiceUnavailable, "store_unavailable", "the books could not be read or written; see the log"}
		}
		send(w, f.status, "application/problem+json", map[string]any{
			"type": "urn:countermand:problem:" + f.code, "title": http.StatusText(f.status), "status": f.status, "code": f.code, "detail": f.detail,
		})
	}
}

// bodyBytesMax bounds a request.
const bodyBytesMax = 1 << 20

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

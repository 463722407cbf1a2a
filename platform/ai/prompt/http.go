package prompt

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/answer"
)

// Base is where prompts are called.
const Base = "/ai/v1/prompts"

// HandlerConfig of [NewHandler]. All but Logger is required.
type HandlerConfig struct {
	Runner *Runner
	Keeper *budget.Keeper
	// Caller tells who pays, from what the edge has checked.
	Caller func(r *http.Request) ai.Caller
	// Explain turns an error of the model's planning or doing into a status, a code and
	// what the client is told; ok is false for what it does not know.
	Explain func(err error) (status int, code, detail string, ok bool)
	// Async takes a call whose client prefers not to wait for it, once its variables
	// have been checked, with the reference that the client has used: a client that sends
	// it again sends the same, wherever a channel has moved. Nil: it waits.
	Async  func(w http.ResponseWriter, r *http.Request, caller ai.Caller, reference string, variables []byte)
	Logger *slog.Logger
}

// NewHandler returns what serves
//
//	POST /ai/v1/prompts/{slug}[:version]  variables in, output out
//	GET  /ai/v1/prompts                   the prompts that the caller may call
//	GET  /ai/v1/prompts/openapi.json      their contract
func NewHandler(config HandlerConfig) http.Handler {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	h := handler{config}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Base+"/{reference}", answer.Handler(h.explain, h.call))
	mux.HandleFunc("GET "+Base, answer.Handler(h.explain, h.list))
	mux.HandleFunc("GET "+Base+"/openapi.json", answer.Handler(h.explain, h.openAPI))
	return mux
}

type handler struct{ HandlerConfig }

func (h handler) call(w http.ResponseWriter, r *http.Request) error {
	caller := h.Caller(r)
	variables, err := io.ReadAll(http.MaxBytesReader(w, r.Body, variablesMax))
	if err != nil {
		return answer.No(http.StatusRequestEntityTooLarge, "too_large", "the body has more than "+strconv.Itoa(variablesMax)+" bytes")
	}
	ready, err := h.Runner.Prepare(r.Context(), caller, r.PathValue("reference"), variables)
	if err != nil {
		return err
	}
	if h.Async != nil && prefersAsync(r.Header) {
		h.Async(w, r, caller, r.PathValue("reference"), variables)
		return nil
	}
	reservation, err := h.Keeper.Reserve(r.Context(), budget.Call{
		Caller: caller, Operation: "prompt", Model: ready.Slug + ":" + strconv.Itoa(ready.Version), Targets: ready.Targets, Most: ready.Most, Cap: ready.Cap,
	})
	if err != nil {
		return err
	}
	defer reservation.Close()
	w.Header().Set("X-Ai-Call-Id", reservation.ID().String())
	result, err := ready.Do(r.Context(), reservation)
	w.Header().Set("X-Ai-Cost", reservation.Cost().String())
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, result)
}

func (h handler) list(w http.ResponseWriter, r *http.Request) error {
	found, err := h.Runner.store.List(r.Context(), h.Caller(r).Tenant)
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, map[string]any{"prompts": append([]Listed{}, found...)})
}

func (h handler) openAPI(w http.ResponseWriter, r *http.Request) error {
	document, err := h.Runner.store.OpenAPI(r.Context(), h.Caller(r).Tenant, Base)
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, json.RawMessage(document))
}

// prefersAsync reports whether the client does not want to wait (RFC 7240).
func prefersAsync(h http.Header) bool {
	for preference := range strings.SplitSeq(strings.Join(h["Prefer"], ","), ",") {
		if name, _, _ := strings.Cut(preference, ";"); strings.EqualFold(strings.TrimSpace(name), "respond-async") {
			return true
		}
	}
	return false
}

// explain tells the client what an error is.
func (h handler) explain(w http.ResponseWriter, r *http.Request, err error) answer.Problem {
	if refusal, ok := errors.AsType[*budget.Refusal](err); ok && refusal.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(refusal.RetryAfter.Seconds())+1))
	}
	p := h.problemOf(err)
	if p.Status == http.StatusInternalServerError {
		h.Logger.ErrorContext(r.Context(), "prompt failed", "path", r.URL.Path, "error", err)
	}
	return p
}

func (h handler) problemOf(err error) answer.Problem {
	if refusal, ok := errors.AsType[*budget.Refusal](err); ok {
		return answer.No(refusal.HTTPStatus(), string(refusal.Code), refusal.Detail)
	}
	if invalid, ok := errors.AsType[*InvalidError](err); ok {
		return answer.Problem{Status: http.StatusUnprocessableEntity, Code: "invalid_variables", Detail: invalid.Error(), Errors: invalid.Faults}
	}
	if output, ok := errors.AsType[*OutputError](err); ok {
		return answer.Problem{Status: http.StatusBadGateway, Code: "output_invalid", Detail: output.Error(), Errors: output.Faults}
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return answer.No(http.StatusNotFound, "prompt_not_found", strings.TrimSpace(err.Error())+"; GET "+Base+" tells which there are")
	case errors.Is(err, ErrUnavailable):
		return answer.No(http.StatusServiceUnavailable, "prompts_unavailable", "the prompts cannot be read; try again soon")
	}
	if h.Explain != nil {
		if status, code, detail, ok := h.Explain(err); ok {
			return answer.No(status, code, detail)
		}
	}
	return answer.No(http.StatusInternalServerError, "internal", "the prompt failed; the log says why")
}

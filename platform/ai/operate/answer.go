package operate

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/prompt"
	"github.com/countermand/countermand/platform/answer"
)

// bodyBytesMax bounds a request.
const bodyBytesMax = 1 << 20

// answering turns errors into problem documents.
func answering(logger *slog.Logger, handle func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return answer.Handler(func(_ http.ResponseWriter, r *http.Request, err error) answer.Problem {
		switch {
		case errors.Is(err, budget.ErrNotFound), errors.Is(err, prompt.ErrNotFound):
			return answer.No(http.StatusNotFound, "not_found", err.Error())
		case errors.Is(err, budget.ErrTwice):
			return answer.No(http.StatusConflict, "budget_exists", err.Error()+"; change that one, or delete it first")
		case errors.Is(err, budget.ErrEnded):
			return answer.No(http.StatusConflict, "attempt_ended", err.Error())
		case errors.Is(err, budget.ErrInvalid):
			return invalid("invalid_budget", err, budget.ErrInvalid)
		case errors.Is(err, prompt.ErrInvalid):
			return invalid("invalid_prompt", err, prompt.ErrInvalid)
		}
		logger.ErrorContext(r.Context(), "admin request failed", "path", r.URL.Path, "error", err)
		return answer.No(http.StatusServiceUnavailable, "store_unavailable", "the books could not be read or written; see the log")
	}, handle)
}

// invalid tells everything that is wrong with what was sent.
func invalid(code string, err, kind error) answer.Problem {
	detail := strings.ReplaceAll(strings.TrimPrefix(err.Error(), kind.Error()+": "), "\n", "; ")
	return answer.No(http.StatusUnprocessableEntity, code, detail)
}

package answer_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/answer"
)

// serve has a handler answer one request.
func serve(t *testing.T, ctx context.Context, path, body string, handle func(http.ResponseWriter, *http.Request) error) *httptest.ResponseRecorder { //nolint:revive // the test comes first
	t.Helper()
	recorder := httptest.NewRecorder()
	explain := func(w http.ResponseWriter, _ *http.Request, err error) answer.Problem {
		w.Header().Set("Retry-After", "1")
		return answer.No(http.StatusServiceUnavailable, "away", err.Error())
	}
	answer.Handler(explain, handle)(recorder, httptest.NewRequestWithContext(ctx, http.MethodPost, path, strings.NewReader(body)))
	return recorder
}

func TestProblems(t *testing.T) {
	t.Parallel()
	got := serve(t, t.Context(), "/a", "", func(http.ResponseWriter, *http.Request) error {
		return answer.Problem{Status: 422, Code: "wrong", Detail: "it is", Errors: []string{"one"}}
	})
	want := `{"type":"urn:countermand:problem:wrong","title":"Unprocessable Entity","status":422,"code":"wrong","detail":"it is","instance":"/a","retriable":false,"errors":["one"]}` + "\n"
	if h := got.Header(); got.Code != 422 || got.Body.String() != want || h.Get("Content-Type") != "application/problem+json" || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%d %s %v", got.Code, got.Body, h)
	}
	got = serve(t, t.Context(), "/a", "", func(http.ResponseWriter, *http.Request) error { return errors.New("no database") })
	if got.Code != 503 || !strings.Contains(got.Body.String(), `"retriable":true`) || got.Header().Get("Retry-After") != "1" {
		t.Errorf("%d %s %v", got.Code, got.Body, got.Header())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := serve(t, ctx, "/a", "", func(http.ResponseWriter, *http.Request) error { return errors.New("gone") }); got.Body.Len() > 0 {
		t.Errorf("a client that is gone is told %s", got.Body)
	}
}

func TestWhatIsRead(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"a":1}`: `{"a":1}`, `{"a":1} {}`: "more than one JSON value", `{"b":1}`: `unknown field`, ``: "EOF", `{"a":` + strings.Repeat(" ", 100) + `1}`: "too large",
		`{"a":1}` + strings.Repeat(" ", 100): `"status":413`, `{"a":1}]`: `"status":400`,
	} {
		got := serve(t, t.Context(), "/", body, func(w http.ResponseWriter, r *http.Request) error {
			var into struct {
				A int `json:"a"`
			}
			if err := answer.Read(w, r, &into, 50); err != nil {
				return err
			}
			return answer.JSON(w, http.StatusOK, into)
		})
		if !strings.Contains(got.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", body, got.Code, got.Body, want)
		}
	}
	for query, want := range map[string]string{"": "7", "?n=3": "3", "?n=0": "invalid_n", "?n=11": "invalid_n", "?n=x": "invalid_n"} {
		got := serve(t, t.Context(), "/"+query, "", func(w http.ResponseWriter, r *http.Request) error {
			n, err := answer.Number(r, "n", 7, 10)
			if err != nil {
				return err
			}
			return answer.JSON(w, http.StatusOK, n)
		})
		if !strings.Contains(got.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", query, got.Code, got.Body, want)
		}
	}
}

package contract

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
	"github.com/countermand/countermand/platform/schedule"
)

// Whatever the API of schedules is asked, its answer is as its document says.
func TestSchedulesAreAsTheDocumentSays(t *testing.T) {
	v := load(t, schedule.OpenAPI())
	_, faults := v.ValidateDocument()
	tell(t, "openapi.json", faults)
	pool := postgrestest.Open(t, postgres.Config{},
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()},
		postgres.MigrationSet{Owner: "schedule", FS: schedule.Migrations()})
	scheduler, err := schedule.New(pool, schedule.Config{
		Commands: []schedule.Command{schedule.Starts(begin)}, Ended: noneHasEnded, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	schedule.Register(mux, scheduler, slog.New(slog.DiscardHandler))

	const (
		all  = "/admin/v1/schedules"
		one  = all + "/nightly"
		body = `{"when":{"cron":"0 6 * * *","zone":"Europe/Berlin","jitter":"1m30s"},"do":{"command":"test.trip.begin.v1","data":{"car":"a"}},"overlap":"skip","limit":9}`
	)
	asked := make(map[string]bool)
	for _, ask := range []struct {
		method, path, condition, body string
		status                        int
	}{
		{http.MethodGet, all, "", "", 200},
		{http.MethodGet, all + "?limit=x", "", "", 400},
		{http.MethodGet, one, "", "", 404},
		{http.MethodPut, one, "", body, 428},
		{http.MethodPut, one, "If-None-Match: *", `{"when":{},"do":{"command":"x"}}`, 422},
		{http.MethodPut, one, "If-None-Match: *", body, 201},
		{http.MethodPut, one, "If-None-Match: *", body, 412},
		{http.MethodPut, one, `If-Match: "1"`, body, 200},
		{http.MethodGet, one, "", "", 200},
		{http.MethodGet, one + "/next?n=3", "", "", 200},
		{http.MethodPost, one + "/trigger", "", `{}`, 200},
		{http.MethodPost, one + "/trigger", "", `{"force":false}`, 409},
		{http.MethodPost, one + "/pause", "", `{"note":"holiday"}`, 200},
		{http.MethodPost, one + "/pause", `If-Match: "1"`, `{"note":"holiday"}`, 412},
		{http.MethodPost, one + "/resume", "", `{}`, 200},
		{http.MethodPost, one + "/backfill", "", `{"from":"2026-11-01T00:00:00Z","to":"2026-11-03T00:00:00Z","one_by_one":true,"again":true}`, 200},
		{http.MethodPost, one + "/backfill", "", `{"from":"2026-11-03T00:00:00Z","to":"2026-11-01T00:00:00Z"}`, 422},
		{http.MethodGet, one + "/firings?limit=2", "", "", 200},
		{http.MethodGet, all + "?limit=1", "", "", 200},
		{http.MethodDelete, one, "", "", 428},
		{http.MethodDelete, one, "If-Match: *", "", 204},
	} {
		request := httptest.NewRequest(ask.method, ask.path, strings.NewReader(ask.body))
		if ask.body != "" {
			request.Header.Set("Content-Type", "application/json")
		}
		if name, value, found := strings.Cut(ask.condition, ": "); found {
			request.Header.Set(name, value)
		}
		recorder := httptest.NewRecorder()
		mux.ServeHTTP(recorder, request)
		what := ask.method + " " + ask.path
		if recorder.Code != ask.status {
			t.Errorf("%s is answered %d %s, want %d", what, recorder.Code, recorder.Body, ask.status)
			continue
		}
		_, faults := v.ValidateHttpResponse(request, recorder.Result())
		tell(t, what, faults)
		if ask.status < 300 { // what is refused need not be as the document says
			asked[ask.method+" "+strings.Replace(request.URL.Path, "nightly", "{id}", 1)] = true
			request.Body = io.NopCloser(strings.NewReader(ask.body))
			_, faults := v.ValidateHttpRequest(request)
			tell(t, what, faults)
		}
	}
	var document struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal(schedule.OpenAPI(), &document); err != nil {
		t.Fatal(err)
	}
	for path, operations := range document.Paths {
		for method := range operations {
			if operation := strings.ToUpper(method) + " " + path; method != "parameters" && !asked[operation] {
				t.Errorf("%s is in the document and was not asked", operation)
			}
		}
	}
}

func noneHasEnded(_ context.Context, ids []string) (map[string]bool, error) {
	known := make(map[string]bool)
	for _, id := range ids {
		known[id] = false
	}
	return known, nil
}

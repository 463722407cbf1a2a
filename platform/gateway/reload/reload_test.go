package reload_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/gateway/reload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func tableOf(id string) string {
	return "version: 1\nupstreams: {a: {url: 'http://127.0.0.1:1'}}\nroutes: [{id: " + id + ", kind: proxy, match: GET /a, upstream: a}]\n"
}

const broken = "version: 1\nroutes:\n  - {id: a, kind: teapot, match: GET /a}\n  - {id: a, kind: proxy, match: GET /b, upstream: none}\n"

// bundle is a loader of a file.
type bundle struct {
	t        *testing.T
	file     string
	loader   *reload.Loader
	registry *prometheus.Registry
	log      *log
	admin    *http.ServeMux
	refuse   atomic.Bool // Apply fails

	mu      sync.Mutex
	applied []*gateway.Table
}

// log is a buffer that many may write.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func parse(name string, text []byte) (*gateway.Table, error) {
	return gateway.ParseTable(name, text, gateway.Contracts{}, func(string) (string, bool) { return "", false })
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{t: t, file: filepath.Join(t.TempDir(), "routes.yaml"), registry: prometheus.NewRegistry(), log: &log{}, admin: http.NewServeMux()}
	b.write(tableOf("first"))
	text := []byte(tableOf("first"))
	table, err := parse(b.file, text)
	if err != nil {
		t.Fatal(err)
	}
	b.loader, err = reload.New(reload.Config{
		File: b.file, Name: b.file, Text: text, Table: table, Parse: parse,
		Apply: func(_ context.Context, table *gateway.Table) error {
			if b.refuse.Load() {
				return errors.New("the broker has no room")
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			b.applied = append(b.applied, table)
			return nil
		},
		Registerer: b.registry, Logger: slog.New(slog.NewTextHandler(b.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.loader.Register(b.admin, func(next http.Handler) http.Handler { return next })
	return b
}

// run runs the loader until the test ends.
func (b *bundle) run() {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- b.loader.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
}

// write replaces the file as an editor does.
func (b *bundle) write(text string) {
	b.t.Helper()
	fresh := b.file + ".new"
	if err := os.WriteFile(fresh, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Rename(fresh, b.file); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bundle) until(what string, holds func(reload.Status) bool) reload.Status {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		status := b.loader.Status()
		if holds(status) {
			return status
		}
		if time.Now().After(end) {
			b.t.Fatalf("%s: never; status %+v", what, status)
		}
	}
}

func (b *bundle) wantRoute(id string) {
	b.t.Helper()
	table, _, _ := b.loader.Table()
	if got := table.Routes()[0].ID; got != id {
		b.t.Errorf("route %s is in force, want %s", got, id)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.applied) > 0 && b.applied[len(b.applied)-1] != table {
		b.t.Error("the table in force is not the one that was applied last")
	}
}

func (b *bundle) wantStale(stale float64) {
	b.t.Helper()
	expected := "# HELP countermand_routes_stale 1 while the last attempt to replace the route table failed, so that an older one is in force.\n" +
		"# TYPE countermand_routes_stale gauge\ncountermand_routes_stale " + map[float64]string{0: "0", 1: "1"}[stale] + "\n"
	if err := testutil.GatherAndCompare(b.registry, strings.NewReader(expected), "countermand_routes_stale"); err != nil {
		b.t.Error(err)
	}
}

func TestAChangedFileIsServedAndABrokenOneIsNot(t *testing.T) {
	b := setup(t)
	b.run()
	b.write(tableOf("second"))
	b.until("the second table", func(s reload.Status) bool { return s.Generation == 2 && s.Source == reload.FromFile })
	b.wantRoute("second")
	b.wantStale(0)

	b.write(broken)
	status := b.until("a failure", func(s reload.Status) bool { return s.Failure != nil })
	if status.Generation != 2 || len(status.Failure.Errors) != 3 || !strings.Contains(status.Failure.Errors[0], b.file+":3: ") {
		t.Errorf("status %+v, failure %q", status, status.Failure.Errors)
	}
	b.wantRoute("second")
	b.wantStale(1)
	if !strings.Contains(b.log.String(), "the last good one stays in force") {
		t.Errorf("the log says nothing of it: %s", b.log)
	}

	b.refuse.Store(true)
	b.write(tableOf("third"))
	status = b.until("another failure", func(s reload.Status) bool { return s.Failure != nil && len(s.Failure.Errors) == 1 })
	if status.Generation != 2 || status.Failure.Errors[0] != "the broker has no room" {
		t.Errorf("status %+v, failure %+v", status, status.Failure)
	}
	b.refuse.Store(false)
	b.write(tableOf("fourth"))
	b.until("the fourth table", func(s reload.Status) bool { return s.Generation == 3 && s.Failure == nil })
	b.wantRoute("fourth")
	b.wantStale(0)

	if err := os.Remove(b.file); err != nil {
		t.Fatal(err)
	}
	b.until("a file that is gone", func(s reload.Status) bool { return s.Failure != nil })
	b.wantRoute("fourth")
	b.write(tableOf("fourth"))
	b.until("its return", func(s reload.Status) bool { return s.Failure == nil })
}

func TestSIGHUPReadsTheFileAgain(t *testing.T) {
	b := setup(t)
	b.run()
	w := b.put(tableOf("by-admin"), "*", "")
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	b.wantRoute("by-admin")
	// The first ones may come before Run listens. Without another listener they would
	// end the process.
	others := make(chan os.Signal, 1)
	signal.Notify(others, syscall.SIGHUP)
	defer signal.Stop(others)
	for end := time.Now().Add(20 * time.Second); b.loader.Status().Source != reload.FromFile; time.Sleep(10 * time.Millisecond) {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil || time.Now().After(end) {
			t.Fatalf("not read again: %v, %+v", err, b.loader.Status())
		}
	}
	b.wantRoute("first")
}

func (b *bundle) do(method, target, body string, headers ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), method, target, strings.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] != "" {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	w := httptest.NewRecorder()
	b.admin.ServeHTTP(w, r)
	return w
}

func (b *bundle) put(body, match, query string) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.do(http.MethodPut, "/admin/v1/routes/table"+query, body, "If-Match", match)
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	b := setup(t)
	want := func(w *httptest.ResponseRecorder, status int, code string) {
		t.Helper()
		var p gateway.Problem
		if w.Code != status || code != "" && (json.Unmarshal(w.Body.Bytes(), &p) != nil || p.Code != code) {
			t.Errorf("%d %s, want %d %s", w.Code, w.Body, status, code)
		}
	}
	shown := b.do(http.MethodGet, "/admin/v1/routes/table", "")
	tag := shown.Header().Get("ETag")
	if shown.Body.String() != tableOf("first") || tag == "" {
		t.Errorf("table %q under %q", shown.Body, tag)
	}
	want(b.do(http.MethodGet, "/admin/v1/routes/table", "", "If-None-Match", tag), http.StatusNotModified, "")
	want(b.do(http.MethodGet, "/admin/v1/routes", "", "If-None-Match", tag), http.StatusNotModified, "")
	if schema := b.do(http.MethodGet, "/admin/v1/routes/schema", ""); !bytes.Equal(schema.Body.Bytes(), gateway.TableSchema()) {
		t.Error("the schema is not the one that tables are checked against")
	}

	want(b.put(tableOf("second"), "", ""), http.StatusPreconditionRequired, "precondition_required")
	want(b.put(tableOf("second"), `"other"`, ""), http.StatusPreconditionFailed, "revision_mismatch")
	want(b.put(tableOf("second"), tag, "?dry_run=perhaps"), http.StatusBadRequest, "invalid_query")
	want(b.put(strings.Repeat(" ", 2<<20), tag, ""), http.StatusRequestEntityTooLarge, "body_too_large")
	b.wantRoute("first")

	dry := b.put(tableOf("second"), tag, "?dry_run=true")
	want(dry, http.StatusOK, "")
	var routes reload.Routes
	if err := json.Unmarshal(dry.Body.Bytes(), &routes); err != nil || routes.Routes[0].ID != "second" || routes.Status.Generation != 1 {
		t.Errorf("dry run answers %s", dry.Body)
	}
	b.wantRoute("first")
	refused := b.put(broken, "", "?dry_run=true")
	want(refused, http.StatusUnprocessableEntity, "invalid_routes")
	var p gateway.Problem
	if err := json.Unmarshal(refused.Body.Bytes(), &p); err != nil || len(p.Errors) != 3 || !strings.HasPrefix(p.Errors[0].Detail, "routes.yaml:3: ") {
		t.Errorf("faults %s", refused.Body)
	}
	if b.loader.Status().Failure != nil {
		t.Error("a dry run left a failure behind")
	}
	want(b.put(tableOf("second"), `"other"`, "?dry_run=true"), http.StatusPreconditionFailed, "revision_mismatch")

	want(b.put(broken, tag, ""), http.StatusUnprocessableEntity, "invalid_routes")
	b.wantRoute("first")
	b.wantStale(1)
	listed := b.do(http.MethodGet, "/admin/v1/routes", "", "If-None-Match", tag)
	want(listed, http.StatusOK, "") // who has the list does not know of the failure
	if !strings.Contains(listed.Body.String(), `"failure"`) {
		t.Errorf("listed %s", listed.Body)
	}

	done := b.put(tableOf("second"), tag, "")
	want(done, http.StatusOK, "")
	if next := done.Header().Get("ETag"); next == tag || next == "" {
		t.Errorf("ETag %s after %s", next, tag)
	}
	b.wantRoute("second")
	b.wantStale(0)
	want(b.put(tableOf("third"), tag, ""), http.StatusPreconditionFailed, "revision_mismatch")
	if s := b.loader.Status(); s.Generation != 2 || s.Source != reload.FromAdmin {
		t.Errorf("status %+v", s)
	}
}

// Two that replace the same table do not both succeed.
func TestOneOfTwoPutsWins(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, _, tag := b.loader.Table()
	var won, lost atomic.Int32
	var all sync.WaitGroup
	for _, id := range []string{"a", "b", "c", "d"} {
		all.Go(func() {
			switch b.put(tableOf(id), tag, "").Code {
			case http.StatusOK:
				won.Add(1)
			case http.StatusPreconditionFailed:
				lost.Add(1)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 || lost.Load() != 3 {
		t.Errorf("%d won and %d lost", won.Load(), lost.Load())
	}
}

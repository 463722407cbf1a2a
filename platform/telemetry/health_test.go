package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countermand/countermand/platform/telemetry"
)

type readiness struct {
	Status string
	Checks map[string]struct{ Status, Error string }
}

func probe(t *testing.T, health *telemetry.Health) (int, readiness, string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	health.Readyz(recorder, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	var body readiness
	if err := json.Unmarshal(recorder.Body.Bytes(), &body); err != nil {
		t.Fatalf("%v: %s", err, recorder.Body)
	}
	return recorder.Code, body, recorder.Body.String()
}

func TestReadyz(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	health := telemetry.NewHealth(telemetry.NewLogger(&log, telemetry.LogConfig{}))
	if code, body, _ := probe(t, health); code != http.StatusOK || body.Status != "ready" {
		t.Errorf("without checks: %d %s", code, body.Status)
	}
	var broken atomic.Pointer[error]
	fail := func(err error) { broken.Store(&err) }
	fail(nil)
	health.Add("postgres", func(context.Context) error { return *broken.Load() })
	health.Add("broker", func(context.Context) error { return nil })

	for _, test := range []struct {
		err   error
		class string
	}{
		{nil, ""},
		{errors.New("password=hunter2"), "failed"},
		{fmt.Errorf("dial: %w", &net.OpError{Op: "dial", Err: errors.New("hunter2")}), "unreachable"},
		{fmt.Errorf("dial: %w", context.DeadlineExceeded), "timeout"},
		{nil, ""},
	} {
		fail(test.err)
		code, body, text := probe(t, health)
		wantCode, wantStatus, wantCheck := http.StatusOK, "ready", "ok"
		if test.err != nil {
			wantCode, wantStatus, wantCheck = http.StatusServiceUnavailable, "not_ready", "failed"
		}
		if code != wantCode || body.Status != wantStatus || body.Checks["postgres"].Status != wantCheck ||
			body.Checks["postgres"].Error != test.class || body.Checks["broker"].Status != "ok" {
			t.Errorf("%v: %d %s", test.err, code, text)
		}
		if strings.Contains(text, "hunter2") {
			t.Errorf("the text of the error is shown: %s", text)
		}
	}
	if got := strings.Count(log.String(), "\n"); got != 2 {
		t.Errorf("%d log records, want one for the failure and one for its end: %s", got, &log)
	}

	health.Note("spare", func(context.Context) error { return errors.New("away") })
	if code, body, text := probe(t, health); code != http.StatusOK || body.Status != "ready" || body.Checks["spare"].Status != "failed" {
		t.Errorf("without what it can do without: %d %s", code, text)
	}

	health.SetDraining()
	if code, body, _ := probe(t, health); code != http.StatusServiceUnavailable || body.Status != "draining" {
		t.Errorf("draining: %d %s", code, body.Status)
	}
	recorder := httptest.NewRecorder()
	health.Livez(recorder, httptest.NewRequest(http.MethodGet, "/livez", nil))
	if recorder.Code != http.StatusOK {
		t.Errorf("a draining process is called dead: %d", recorder.Code)
	}
}

func TestReadyzRunsChecksConcurrentlyAndOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		health := telemetry.NewHealth(slog.New(slog.DiscardHandler))
		var runs atomic.Int32
		for _, name := range []string{"a", "b", "c"} {
			health.Add(name, func(context.Context) error {
				runs.Add(1)
				time.Sleep(time.Second)
				return nil
			})
		}
		start := time.Now()
		var probes sync.WaitGroup
		for range 20 {
			probes.Go(func() {
				if code, _, text := probe(t, health); code != http.StatusOK {
					t.Errorf("%d %s", code, text)
				}
			})
		}
		probes.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %s, want 1s", took)
		}
		if got := runs.Load(); got != 3 {
			t.Errorf("%d runs, want each of 3 checks once", got)
		}
	})
}

func TestReadyzBoundsACheckThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		health := telemetry.NewHealth(slog.New(slog.DiscardHandler))
		var runs atomic.Int32
		release := make(chan struct{})
		health.Add("deaf", func(context.Context) error {
			runs.Add(1)
			<-release
			return nil
		})
		health.Add("obedient", func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		health.Add("quick", func(context.Context) error { return nil })
		for range 3 {
			start := time.Now()
			code, body, text := probe(t, health)
			if took := time.Since(start); took > 2500*time.Millisecond {
				t.Errorf("took %s", took)
			}
			if code != http.StatusServiceUnavailable || body.Checks["deaf"].Error != "timeout" ||
				body.Checks["obedient"].Error != "timeout" || body.Checks["quick"].Status != "ok" {
				t.Errorf("%d %s", code, text)
			}
		}
		if got := runs.Load(); got != 1 {
			t.Errorf("%d runs hang, want 1", got)
		}
		close(release)
		synctest.Wait()
	})
}

package demo

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// status is an event as the gateway sends it; steps are statuses in the order of the
// saga.
func status(event string, id int, of string, steps ...string) string {
	names := []string{"create-order", "reserve-stock", "authorize-payment"}
	var all []string
	for i, s := range steps {
		all = append(all, fmt.Sprintf(`{"name":%q,"status":%q,"attempts":1}`, names[i], s))
	}
	code := ""
	if of == "compensated" {
		code = `,"error":{"code":"cancelled"}`
	}
	return fmt.Sprintf("event: %s\nid: %d\ndata: {\"id\":\"1\",\"status\":%q,\"done\":%t,\"steps\":[%s],\"created_at\":%q%s}\n\n",
		event, id, of, code != "", strings.Join(all, ","), time.Now().Add(time.Minute).Format(time.RFC3339), code)
}

// shop answers as a gateway would that ends the stream after each part.
func shop(t *testing.T, parts ...string) *client {
	t.Helper()
	var lasts []string
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/orders", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"id":"1","status":"accepted"}`)
	})
	mux.HandleFunc("DELETE /v1/operations/1", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"id":"1","status":"running"}`)
	})
	mux.HandleFunc("GET /v1/operations/1/events", func(w http.ResponseWriter, r *http.Request) {
		last := r.Header.Get("Last-Event-ID")
		if n := len(lasts); n > 0 && last == lasts[n-1] {
			t.Errorf("it comes again with Last-Event-ID %q, as before", last)
		}
		lasts = append(lasts, last)
		_, _ = io.WriteString(w, "retry: 1000\n\n:\n\n"+parts[len(lasts)-1])
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return newClient(server.URL, 4)
}

func TestShowsStepsForwardAndBack(t *testing.T) {
	t.Parallel()
	var lines []string
	say := func(format string, args ...any) {
		if _, line, timed := strings.Cut(fmt.Sprintf(format, args...), " s  "); timed {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
	}
	c := shop(t,
		status("status", 1, "running", "running", "pending", "pending")+status("status", 3, "running", "done", "done", "running"),
		status("status", 5, "compensating", "done", "compensating", "compensated"),
		status("status", 7, "compensated", "compensated", "compensated", "compensated")+status("done", 7, "compensated", "compensated", "compensated", "compensated"))
	events, err := c.showUndone(t.Context(), 1, say)
	if err != nil || events != 5 {
		t.Errorf("%d events, %v", events, err)
	}
	want := []string{
		"→ create-order running", "→ create-order done", "→ reserve-stock done", "→ authorize-payment running",
		"DELETE /v1/operations/1", "← authorize-payment undone", "← reserve-stock being undone",
		"← reserve-stock undone", "← create-order undone", "compensated, code cancelled",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("it shows\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func TestTellsWhatWasNotShown(t *testing.T) {
	t.Parallel()
	for name, one := range map[string]struct{ part, want string }{
		"an order that completes":       {status("done", 7, "completed", "done", "done", "done"), "ended completed"},
		"steps that nobody saw go on":   {status("done", 7, "compensated", "compensated", "compensated", "compensated"), "0 steps were seen to be done"},
		"a step that was never undone":  {status("status", 3, "running", "done", "done", "running") + status("done", 7, "compensated", "done", "compensated", "compensated"), "2 to be undone"},
		"an event that is no operation": {"event: status\nid: 1\ndata: {\n\n", "event status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := shop(t, one.part).showUndone(t.Context(), 1, func(string, ...any) {})
			if err == nil || !strings.Contains(err.Error(), one.want) {
				t.Errorf("error %v, want one with %q", err, one.want)
			}
		})
	}
}

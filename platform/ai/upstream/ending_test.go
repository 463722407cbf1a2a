package upstream_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/ai/wire"
)

func TestSilenceEndsAnAttempt(t *testing.T) {
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	hang := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	c := upstreams(t, map[string]http.HandlerFunc{"a": hang, "b": sim("sim-echo")}, "a", "b")
	m := c.Models["m"]
	m.FirstByte = 50 * time.Millisecond
	c.Models["m"] = m
	b := new(books)
	if answer, err := do(t, router(t, c), chat, b); err != nil || answer.Deployment != "b" || b.String() != "a uncertain timed_out 0, b settled 4/3 reported" {
		t.Errorf("%v, booked %s", err, b)
	}
	m.FirstByte, m.Total, m.Attempts = time.Minute, 50*time.Millisecond, 1
	c.Models["m"] = m
	b = new(books)
	_, err := do(t, router(t, c), chat, b)
	var e *wire.Error
	if !errors.As(err, &e) || e.Status != 504 || b.String() != "a uncertain timed_out 0" {
		t.Errorf("%v, booked %s", err, b)
	}
}

func TestACutStreamIsNeverCleanAndNeverMovesOn(t *testing.T) {
	pause := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte("data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"one two three four\"},\"finish_reason\":null}]}\n\n"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	clean := func(w http.ResponseWriter, _ *http.Request) { // ends well, but says nothing of its end
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte("data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"one\"},\"finish_reason\":null}]}\n\n"))
	}
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		code    string
		booked  string
	}{
		"broken off":  {sim("sim-cut"), "upstream_cut", "a uncertain cut"},
		"ended early": {clean, "upstream_cut", "a uncertain cut"},
		"fell silent": {pause, "upstream_timeout", "a uncertain timed_out"},
	} {
		t.Run(name, func(t *testing.T) {
			c := upstreams(t, map[string]http.HandlerFunc{"a": tt.handler, "b": sim("sim-echo")}, "a", "b")
			m := c.Models["m"]
			m.Idle = 50 * time.Millisecond
			c.Models["m"] = m
			b := new(books)
			answer, err := do(t, router(t, c), streamed, b)
			if err != nil {
				t.Fatal(err)
			}
			frames, err := pump(answer)
			var e *wire.Error
			if !errors.As(err, &e) || e.Code != tt.code || strings.Contains(frames, "[DONE]") || !strings.Contains(frames, "one") {
				t.Errorf("%q, %v", frames, err)
			}
			if !strings.HasPrefix(b.String(), tt.booked) || strings.HasSuffix(b.String(), " 0") || strings.Contains(b.String(), "b ") {
				t.Errorf("booked %s", b)
			}
		})
	}
}

func TestAClientThatLeavesEndsTheUpstreamCall(t *testing.T) {
	gone := make(chan struct{}, 2)
	slow := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte("data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"a\"},\"finish_reason\":null}]}\n\n"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		gone <- struct{}{}
	}
	r := router(t, upstreams(t, map[string]http.HandlerFunc{"a": slow}, "a"))
	b := new(books)
	answer, err := do(t, r, streamed, b)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken pipe")
	if err := answer.Pump(func([]byte) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("ended with %v", err)
	}
	<-gone
	if !strings.HasPrefix(b.String(), "a uncertain client_gone") {
		t.Errorf("booked %s", b)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	b = new(books)
	answer, err = doIn(ctx, t, r, streamed, b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pump(answer); err == nil {
		t.Error("the client left and the call goes on")
	}
	<-gone
	if !strings.HasPrefix(b.String(), "a uncertain client_gone") {
		t.Errorf("booked %s", b)
	}
}

// FirstByte is for the beginning of an answer, and Idle for each part of the rest.
func TestAnAnswerThatComesSlowlyIsWaitedFor(t *testing.T) {
	slow := func(w http.ResponseWriter, _ *http.Request) {
		control := http.NewResponseController(w)
		for _, part := range []string{" ", " ", " ", " ", `{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":3}}`} {
			_, _ = w.Write([]byte(part))
			_ = control.Flush()
			time.Sleep(30 * time.Millisecond)
		}
	}
	c := upstreams(t, map[string]http.HandlerFunc{"a": slow}, "a")
	m := c.Models["m"]
	m.FirstByte, m.Idle, m.Attempts = 100*time.Millisecond, time.Minute, 1
	c.Models["m"] = m
	r := router(t, c)
	b := new(books)
	if _, err := do(t, r, chat, b); err != nil || b.String() != "a settled 4/3 reported" {
		t.Errorf("%v, booked %s", err, b)
	}
	m.FirstByte, m.Idle = time.Minute, 10*time.Millisecond
	c.Models["m"] = m
	r.SetConfig(c)
	b = new(books)
	if _, err := do(t, r, chat, b); err == nil || b.String() != "a uncertain timed_out 0" {
		t.Errorf("%v, booked %s", err, b)
	}
}

func TestAClientThatIsSlowIsNotTheUpstreamsFault(t *testing.T) {
	c := upstreams(t, map[string]http.HandlerFunc{"a": sim("sim-echo")}, "a")
	m := c.Models["m"]
	m.Idle = 50 * time.Millisecond
	c.Models["m"] = m
	b := new(books)
	answer, err := do(t, router(t, c), streamed, b)
	if err != nil {
		t.Fatal(err)
	}
	err = answer.Pump(func([]byte) error {
		time.Sleep(100 * time.Millisecond)
		return nil
	})
	if err != nil || b.String() != "a settled 4/3 reported" {
		t.Errorf("%v, booked %s", err, b)
	}
}

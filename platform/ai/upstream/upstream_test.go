package upstream_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/ai/upstream"
	"github.com/countermand/countermand/platform/ai/wire"
)

func TestFailuresMoveOnAndAreBooked(t *testing.T) {
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(`{"half":`))
	}
	for name, tt := range map[string]struct {
		first      http.HandlerFunc
		booked     string
		stays      int // the status of the error, when no other deployment is tried
		streamOnly bool
		wholeOnly  bool
	}{
		"overloaded":     {first: status(503), booked: "a released failed"},
		"limited":        {first: status(429), booked: "a released limited"},
		"a wrong key":    {first: status(401), booked: "a released key_refused"},
		"no such model":  {first: status(404), booked: "a released refused"},
		"an error":       {first: status(500), booked: "a uncertain failed 0"},
		"a wrong answer": {first: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, booked: "a uncertain failed 0"},
		"a redirection": {
			first: func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://elsewhere.invalid", http.StatusTemporaryRedirect)
			}, booked: "a uncertain failed 0",
		},
		"a cut answer":      {first: cut, booked: "a uncertain cut 0", wholeOnly: true},
		"a faulty request":  {first: status(400), booked: "a released refused", stays: 400},
		"a request refused": {first: status(422), booked: "a released refused", stays: 422},
		"an error as the first event": {
			first: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = w.Write([]byte("data: {\"error\":{\"message\":\"overloaded\"}}\n\n"))
			}, booked: "a uncertain failed 0", streamOnly: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := router(t, upstreams(t, map[string]http.HandlerFunc{"a": tt.first, "b": sim("sim-echo")}, "a", "b"))
			for _, text := range []string{chat, streamed} {
				if text == chat && tt.streamOnly || text == streamed && tt.wholeOnly {
					continue
				}
				b := new(books)
				answer, err := do(t, r, text, b)
				if tt.stays > 0 {
					var e *wire.Error
					if !errors.As(err, &e) || e.Status != tt.stays || strings.Contains(e.Message, "canary") || !strings.Contains(e.Message, "redacted") {
						t.Errorf("%+v", err)
					}
					if b.String() != tt.booked {
						t.Errorf("booked %s", b)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if answer.Deployment != "b" || answer.Attempts != 2 {
					t.Errorf("answered by %s at attempt %d", answer.Deployment, answer.Attempts)
				}
				if answer.InParts() {
					if frames, err := pump(answer); err != nil || !strings.HasSuffix(frames, "data: [DONE]\n\n") || strings.Contains(frames, "usage") {
						t.Errorf("%s, %v", frames, err)
					}
				}
				if want := tt.booked + ", b settled 4/3 reported"; b.String() != want {
					t.Errorf("booked %s, want %s", b, want)
				}
			}
		})
	}
}

func TestWhatNeverLeftIsReleased(t *testing.T) {
	c := upstreams(t, map[string]http.HandlerFunc{"a": sim("sim-echo")}, "a")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	p := c.Providers["a"]
	p.BaseURL = "http://" + l.Addr().String()
	c.Providers["a"] = p
	m := c.Models["m"]
	m.Attempts = 1
	c.Models["m"] = m
	b := new(books)
	_, err = do(t, router(t, c), chat, b)
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != "upstream_unreachable" || b.String() != "a released not_sent" {
		t.Errorf("%v, booked %s", err, b)
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	var calls atomic.Int64
	count := func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		status(503)(w, r)
	}
	c := upstreams(t, map[string]http.HandlerFunc{"a": count, "b": count}, "a", "b")
	m := c.Models["m"]
	m.Attempts = 3
	c.Models["m"] = m
	b := new(books)
	_, err := do(t, router(t, c), chat, b)
	var e *wire.Error
	if !errors.As(err, &e) || e.Status != 503 || calls.Load() != 3 || b.String() != "a released failed, b released failed, a released failed" {
		t.Errorf("%v after %d calls, booked %s", err, calls.Load(), b)
	}
}

func TestABreakerLeavesADeploymentAlone(t *testing.T) {
	var calls atomic.Int64
	c := upstreams(t, map[string]http.HandlerFunc{"a": func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) > 2 {
			sim("sim-echo")(w, r)
			return
		}
		status(500)(w, r)
	}, "b": sim("sim-echo")}, "a", "b")
	d := c.Deployments["a"]
	d.Breaker = upstream.Breaker{Errors: 2, Window: time.Minute, Pause: 100 * time.Millisecond}
	c.Deployments["a"] = d
	r := router(t, c)
	deployment := func() string {
		answer, err := do(t, r, chat, new(books))
		if err != nil {
			t.Fatal(err)
		}
		return answer.Deployment
	}
	for range 5 {
		if got := deployment(); got != "b" {
			t.Fatalf("answered by %s", got)
		}
	}
	if calls.Load() != 2 {
		t.Errorf("a failing deployment was asked %d times", calls.Load())
	}
	r.SetConfig(c) // what has not changed keeps its state
	if got := deployment(); got != "b" || calls.Load() != 2 {
		t.Errorf("another configuration has forgotten the breaker")
	}
	for deadline := time.Now().Add(5 * time.Second); deployment() != "a"; {
		if time.Now().After(deadline) {
			t.Fatal("the deployment is never tried again")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	c := upstreams(t, map[string]http.HandlerFunc{"a": func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-release
		sim("sim-echo")(w, r)
	}, "b": sim("sim-echo")}, "a", "b")
	d := c.Deployments["a"]
	d.Concurrency = 1
	c.Deployments["a"] = d
	r := router(t, c)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = do(t, r, chat, new(books)) })
	<-entered
	if answer, err := do(t, r, chat, new(books)); err != nil || answer.Deployment != "b" {
		t.Errorf("%v, %v", answer, err)
	}
	close(release)
	wg.Wait()
}

func TestKeysTakeTurns(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	c := upstreams(t, map[string]http.HandlerFunc{"a": func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Authorization")
		mu.Lock()
		seen[key]++
		mu.Unlock()
		if key == "Bearer one" {
			status(401)(w, r)
			return
		}
		sim("sim-echo")(w, r)
	}}, "a")
	p := c.Providers["a"]
	p.Keys = []upstream.Key{{Name: "1", Secret: "one", Weight: 50}, {Name: "2", Secret: "two", Weight: 1}}
	c.Providers["a"] = p
	r := router(t, c)
	for range 20 {
		if _, err := do(t, r, chat, new(books)); err != nil {
			t.Fatal(err)
		}
	}
	if seen["Bearer one"] != 1 || seen["Bearer two"] != 20 {
		t.Errorf("keys were used %v", seen)
	}
	if shown := fmt.Sprintf("%v %+v %#v", p.Keys, p, c); strings.Contains(shown, "one") || strings.Contains(shown, "two") {
		t.Errorf("a secret is shown: %s", shown)
	}
}

func TestWeights(t *testing.T) {
	c := upstreams(t, map[string]http.HandlerFunc{"a": sim("sim-echo"), "b": sim("sim-echo"), "c": sim("sim-echo")}, "a")
	c.Models["m"] = upstream.Model{Targets: []upstream.Target{{Deployment: "a", Weight: 9}, {Deployment: "b", Weight: 1}, {Deployment: "c"}}}
	r := router(t, c)
	counts := map[string]int{}
	for range 300 {
		answer, err := do(t, r, chat, new(books))
		if err != nil {
			t.Fatal(err)
		}
		counts[answer.Deployment]++
	}
	if counts["a"] < 230 || counts["b"] < 5 || counts["c"] > 0 {
		t.Errorf("300 calls at 9:1:0 went %v", counts)
	}
}

func TestBooksMayRefuse(t *testing.T) {
	var calls atomic.Int64
	r := router(t, upstreams(t, map[string]http.HandlerFunc{"a": func(http.ResponseWriter, *http.Request) { calls.Add(1) }}, "a"))
	refusal := errors.New("no money")
	if _, err := do(t, r, chat, &books{refuse: refusal}); !errors.Is(err, refusal) || calls.Load() != 0 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}

// A trial that says nothing of a deployment does not close its breaker.
func TestOnlyAnAnswerClosesABreaker(t *testing.T) {
	var calls atomic.Int64
	c := upstreams(t, map[string]http.HandlerFunc{"a": func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		status(500)(w, r)
	}}, "a")
	d := c.Deployments["a"]
	d.Breaker = upstream.Breaker{Errors: 3, Window: time.Minute, Pause: 50 * time.Millisecond}
	c.Deployments["a"] = d
	m := c.Models["m"]
	m.Attempts = 1
	c.Models["m"] = m
	r := router(t, c)
	for range 3 {
		_, _ = do(t, r, chat, new(books))
	}
	for _, b := range []*books{{refuse: errors.New("no money")}, {}, {}} {
		time.Sleep(100 * time.Millisecond) // until it may be tried
		_, _ = do(t, r, chat, b)
	}
	if calls.Load() != 5 { // three, and one for each pause after which it was really tried
		t.Errorf("it was asked %d times", calls.Load())
	}
	_, err := do(t, r, chat, new(books))
	if e, ok := errors.AsType[*wire.Error](err); !ok || e.Code != "overloaded" || calls.Load() != 5 {
		t.Errorf("it is used again: %v", err)
	}
}

// What cannot be asked of one deployment takes no attempt away from the others.
func TestADeploymentThatCannotTakesNoAttempt(t *testing.T) {
	c := upstreams(t, map[string]http.HandlerFunc{"a": sim("sim-echo"), "b": sim("sim-echo")}, "a", "b")
	p := c.Providers["a"]
	p.Wire = upstream.Anthropic
	c.Providers["a"] = p
	m := c.Models["m"]
	m.Attempts = 1
	c.Models["m"] = m
	b := new(books)
	answer, err := do(t, router(t, c), strings.Replace(chat, "{", `{"n":2,`, 1), b)
	if err != nil || answer.Deployment != "b" || answer.Attempts != 1 || b.String() != "b settled 4/3 reported" {
		t.Errorf("%+v, %v, booked %s", answer, err, b)
	}
}

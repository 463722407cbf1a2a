package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"
	"go.uber.org/goleak"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/simulated"
	"github.com/countermand/countermand/platform/ai/upstream"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// books writes down what is told to a reservation.
type books struct {
	mu      sync.Mutex
	entries []string
	refuse  error
}

func (b *books) Dispatch(_ context.Context, m ai.Model) (upstream.Attempt, error) {
	if b.refuse != nil {
		return nil, b.refuse
	}
	return entry{b, m}, nil
}

func (b *books) write(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries = append(b.entries, fmt.Sprintf(format, args...))
}

func (b *books) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.entries, ", ")
}

type entry struct {
	b *books
	m ai.Model
}

func (e entry) Settle(u ai.Usage, source ai.Source) ai.NanoUSD {
	e.b.write("%s settled %d/%d %s", e.m.Name, u.InputTotal(), u.OutputTotal(), source)
	return 0
}
func (e entry) Release(reason string) { e.b.write("%s released %s", e.m.Name, reason) }
func (e entry) Uncertain(reason string, known ai.Usage) {
	e.b.write("%s uncertain %s %d", e.m.Name, reason, known.OutputTotal())
}

// upstreams starts a server for each handler and returns a configuration with a
// deployment of the same name for each, and the model "m" that leads to the first, with
// the others as its fallback.
func upstreams(t *testing.T, handlers map[string]http.HandlerFunc, order ...string) upstream.Config {
	t.Helper()
	c := upstream.Config{
		Providers: map[string]upstream.Provider{}, Deployments: map[string]upstream.Deployment{}, Models: map[string]upstream.Model{},
	}
	for name, handler := range handlers {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		c.Providers[name] = upstream.Provider{
			Wire: upstream.OpenAI, BaseURL: server.URL + "/v1", Auth: upstream.Bearer, Prices: "p",
			Keys: []upstream.Key{{Name: "k", Secret: "canary-" + upstream.Secret(name)}},
		}
		c.Deployments[name] = upstream.Deployment{Provider: name, Model: name}
	}
	c.Models["m"] = upstream.Model{Targets: []upstream.Target{{Deployment: order[0], Weight: 1}}, Fallback: order[1:]}
	return c
}

func router(t *testing.T, c upstream.Config) *upstream.Router {
	t.Helper()
	r := upstream.NewRouter(c, upstream.Observer{}, nil)
	t.Cleanup(r.Close)
	return r
}

func request(t *testing.T, text string) upstream.Request {
	t.Helper()
	o := wiretest.Object(t, text)
	return upstream.Request{Format: wire.Chat, Model: o.Get("model").Str, Body: o, Stream: o.Get("stream").Bool()}
}

const chat = `{"model":"m","messages":[{"role":"user","content":"one two three"}]}`

var streamed = strings.Replace(chat, "{", `{"stream":true,`, 1)

func do(t *testing.T, r *upstream.Router, text string, b *books) (*upstream.Answer, error) {
	t.Helper()
	return doIn(t.Context(), t, r, text, b)
}

func doIn(ctx context.Context, t *testing.T, r *upstream.Router, text string, b *books) (*upstream.Answer, error) {
	t.Helper()
	plan, err := r.Plan(request(t, text))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := plan.Do(ctx, b)
	if answer != nil {
		t.Cleanup(answer.Close)
	}
	return answer, err
}

// pump reads a whole answer in parts.
func pump(a *upstream.Answer) (frames string, err error) {
	err = a.Pump(func(f []byte) error {
		frames += string(f)
		return nil
	})
	return frames, err
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, `{"error":{"message":"no, %s"}}`, r.Header.Get("Authorization"))
	}
}

// sim answers as the simulated provider, whatever model is asked for.
func sim(model string) http.HandlerFunc {
	p := simulated.New()
	return func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		o := gjson.GetBytes(data, "model").Raw
		r.Body = io.NopCloser(strings.NewReader(strings.Replace(string(data), o, `"`+model+`"`, 1)))
		p.ServeHTTP(w, r)
	}
}

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
		"a wrong answer": {first: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, booked: "a uncertain failed 0", streamOnly: true},
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

func TestPlanTellsTargetsAndTheMost(t *testing.T) {
	c := upstreams(t, map[string]http.HandlerFunc{"a": sim("sim-echo"), "b": sim("sim-echo")}, "a", "b")
	c.Deployments["any"] = upstream.Deployment{Provider: "a", Model: "*", OutputMax: 50}
	c.Models["x/*"] = upstream.Model{Targets: []upstream.Target{{Deployment: "any", Weight: 1}}, Tenants: []string{"t1"}}
	r := router(t, c)
	plan, err := r.Plan(request(t, `{"model":"m","max_tokens":7,"n":3,"messages":[]}`))
	if err != nil || plan.Most.Output != 21 || !slices.Equal(plan.Targets, []ai.Model{{Provider: "p", Name: "a"}, {Provider: "p", Name: "b"}}) {
		t.Errorf("%+v, %v", plan, err)
	}
	q := request(t, `{"model":"x/y/z","messages":[]}`)
	if _, err := r.Plan(q); err == nil {
		t.Error("another tenant's model can be used")
	}
	q.Tenant = "t1"
	if plan, err = r.Plan(q); err != nil || plan.Model != "x/*" || plan.Most.Output != 50 || plan.Targets[0].Name != "y/z" {
		t.Errorf("%+v, %v", plan, err)
	}
	image := request(t, `{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,`+strings.Repeat("A", 100_000)+`"}}]}]}`)
	if plan, err = r.Plan(image); err != nil || plan.Most.Input > 7000 || plan.Most.Input < 6000 {
		t.Errorf("an image is taken for %d tokens, %v", plan.Most.Input, err)
	}
	for _, refused := range []string{
		`{"model":"none"}`, `{"model":"x/"}`, `{"model":"m","n":1000}`, `{"model":"m","service_tier":"priority"}`, `{"model":"m","speed":"fast"}`,
	} {
		var e *wire.Error
		if _, err := r.Plan(request(t, refused)); !errors.As(err, &e) {
			t.Errorf("%s: %v", refused, err)
		}
	}
}

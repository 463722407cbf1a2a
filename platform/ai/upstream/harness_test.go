package upstream_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

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

package route_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/observe"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/gateway"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

const canary = "sk-canary-27182818"

// product is the AI route with everything that it tells.
type product struct {
	t        *testing.T
	url      string
	handler  *route.Handler
	log      *buffer
	registry *prometheus.Registry
	spans    *tracetest.InMemoryExporter
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("ai.yaml", []byte(text), config.Sources{LookupEnv: func(string) (string, bool) { return canary, true }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func prices(t *testing.T) *price.Book {
	t.Helper()
	book, err := price.New(price.Overlay{})
	if err != nil {
		t.Fatal(err)
	}
	return book
}

// start serves a configuration, to the tenant that the header X-Tenant names.
func start(t *testing.T, text string, keeper *budget.Keeper, change ...func(*route.Config)) *product {
	t.Helper()
	p := &product{t: t, log: new(buffer), registry: prometheus.NewRegistry(), spans: tracetest.NewInMemoryExporter()}
	observer, err := observe.New(p.registry, trace.NewTracerProvider(trace.WithSyncer(p.spans)))
	if err != nil {
		t.Fatal(err)
	}
	if keeper == nil {
		keeper = budget.Unkept(prices(t))
	}
	c := route.Config{Keeper: keeper, Observer: observer, Logger: slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, f := range change {
		f(&c)
	}
	p.handler = route.New(c, parse(t, text))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		identity := gateway.Identity{Tenant: r.Header.Get("X-Tenant"), Client: "app"}
		p.handler.ServeHTTP(w, r.WithContext(gateway.WithIdentity(r.Context(), identity)))
	}))
	t.Cleanup(server.Close)
	t.Cleanup(p.handler.Close)
	p.url = server.URL + "/ai/v1"
	return p
}

type reply struct {
	status int
	header http.Header
	body   string
	err    error // of reading it
	tail   http.Header
}

func (p *product) post(path, body string, header ...string) reply {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return p.send(r)
}

func (p *product) get(path string, header ...string) reply {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.url+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return p.send(r)
}

func (p *product) send(r *http.Request) reply {
	p.t.Helper()
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(data), err, response.Trailer}
}

func (p *product) metrics() string {
	p.t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		_, _ = expfmt.MetricFamilyToText(&b, f)
	}
	return b.String()
}

func chat(model, text, more string) string {
	return `{"model":"` + model + `","messages":[{"role":"user","content":"` + text + `"}]` + more + `}`
}

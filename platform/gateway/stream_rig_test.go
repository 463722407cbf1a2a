package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/gateway"
)

const streamRoutes = `
version: 1
routes:
  - id: all
    kind: stream
    match: GET /v1/events
    types: [shop.order.placed.v1, shop.order.confirmed.v1]
    publish: facts
    origins: ["https://pages.example"]
  - id: one
    kind: stream
    match: GET /v1/orders/{id}/events
    types: [shop.order.placed.v1, shop.order.confirmed.v1]
    filters: [{any: [{exact: {subject: "{id}"}}, {exact: {subject: "{id}-copy"}}]}]
  - {id: placed, kind: stream, match: GET /v1/placed, types: [shop.order.placed.v1], heartbeat: 1s, idle: 1500ms, transports: [poll, sse]}
  - {id: few, kind: stream, match: GET /v1/few, types: [shop.order.placed.v1], limits: {followers: 2, per_tenant: 1, per_client: 1}}
  - {id: socket, kind: stream, match: GET /v1/socket, types: [shop.order.placed.v1], transports: [websocket]}
  - {id: guarded, kind: stream, match: GET /v1/guarded, types: [shop.order.placed.v1], guards: [{allow: 'identity.tenant != ""'}]}
  - {id: facts, kind: events, match: POST /v1/facts, types: [shop.order.placed.v1], guards: [{allow: 'event.source.startsWith("/partners/")', code: foreign_source}]}
`

// patience bounds what a test waits for that should come soon.
const patience = 20 * time.Second

// streams is a gateway on a real broker, behind a server.
type streams struct {
	t       *testing.T
	gateway *gateway.Gateway
	broker  broker.Broker
	server  *httptest.Server
	// credential is that of every request with an identity; nil: one that does not end.
	credential func(*gateway.Identity)
}

// batchHeader asks for a long poll.
const batchHeader = "Accept: application/cloudevents-batch+json"

// who the sender of a request is, for tests: a handler in front would find out.
const whoHeader = "X-Test-Identity"

func setupStreams(t *testing.T, change ...func(*gateway.Config, *gateway.Deps)) *streams {
	t.Helper()
	s := &streams{t: t, broker: streamBroker(t)}
	known := contracts(t)
	known.Facts = facts()
	table, err := gateway.ParseTable("routes.yaml", []byte(streamRoutes), known, lookupIn(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.broker.Ensure(t.Context(), table.Topics()...); err != nil {
		t.Fatal(err)
	}
	committer := broker.NewCommitter(s.broker, 0)
	t.Cleanup(committer.Close)
	config := gateway.Config{Secret: []byte("a secret of enough bytes"), Logger: slog.New(slog.DiscardHandler)}
	deps := gateway.Deps{Publisher: committer, Operations: &fakeOperations{}, Lookup: s.broker.Lookup, Source: s.broker}
	for _, change := range change {
		change(&config, &deps)
	}
	if s.gateway, err = gateway.New(config, table, deps); err != nil {
		t.Fatal(err)
	}
	s.serve(nil)
	t.Cleanup(func() {
		s.gateway.Drain()
		s.server.Close()
		if err := s.gateway.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// serve has the gateway answer at a server of its own, after change.
func (s *streams) serve(change func(*http.Server)) {
	if s.server != nil {
		s.server.Close()
	}
	s.server = httptest.NewUnstartedServer(s.identified(s.gateway))
	if change != nil {
		change(s.server.Config)
	}
	s.server.Start()
}

// identified puts who sends a request where the gateway finds it.
func (s *streams) identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if who := r.Header.Get(whoHeader); who != "" {
			tenant, client, _ := strings.Cut(who, "/")
			identity := gateway.Identity{Tenant: tenant, Client: client}
			if s.credential != nil {
				s.credential(&identity)
			}
			r = r.WithContext(gateway.WithIdentity(r.Context(), identity))
		}
		next.ServeHTTP(w, r)
	})
}

func streamBroker(t *testing.T) broker.Broker {
	t.Helper()
	conn, err := embeddedtest.NATS(t).Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b, err := natsbroker.New(conn, natsbroker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fact is the nth fact of an order.
func fact(verb, orderID string, n int, change ...func(*events.Event)) events.Event {
	e := events.Event{
		ID: fmt.Sprintf("%s-%d", orderID, n), Source: "/order", Type: "shop.order." + verb + ".v1", Subject: orderID, PartitionKey: orderID,
		DataContentType: events.ContentTypeJSON, Data: fmt.Appendf(nil, `{"order_id":%q}`, orderID),
	}
	for _, change := range change {
		change(&e)
	}
	return e
}

func (s *streams) publish(all ...events.Event) {
	s.t.Helper()
	messages := make([]broker.Message, len(all))
	for i, e := range all {
		messages[i] = broker.Message{Topic: events.FactTopic(e.Type), PublishID: e.Source + e.ID, Event: e}
	}
	for _, receipt := range s.broker.PublishBatch(s.t.Context(), messages) {
		if receipt.Err != nil {
			s.t.Fatal(receipt.Err)
		}
	}
}

// get sends a request; headers are given as "Name: value".
func (s *streams) get(path string, headers ...string) *http.Response {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	s.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.server.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	response, err := s.server.Client().Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// frame is what stands between two empty lines of a stream.
type frame struct {
	id, event, data, retry string
	comment                bool
}

// eventsOf reads a stream as a browser would.
type eventsOf struct {
	t     *testing.T
	lines *bufio.Reader
	last  string // event id
	data  string // of the last event
}

func (s *streams) open(path string, headers ...string) *eventsOf {
	s.t.Helper()
	response := s.get(path, headers...)
	if got := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || got != "text/event-stream" {
		s.t.Fatalf("%s is answered %s with %q", path, response.Status, got)
	}
	e := &eventsOf{t: s.t, lines: bufio.NewReaderSize(response.Body, 64<<10)}
	if first, err := e.frame(); err != nil || first.retry == "" || first.id == "" || first.data != "" {
		s.t.Fatalf("the stream begins with %+v, %v", first, err)
	}
	return e
}

func (e *eventsOf) frame() (f frame, err error) {
	for {
		line, err := e.lines.ReadString('\n')
		if err != nil {
			return f, err
		}
		line = strings.TrimSuffix(line, "\n")
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "":
			if f.id != "" {
				e.last = f.id
				if f.data != "" {
					e.data = f.data
				}
			}
			return f, nil
		case strings.HasPrefix(line, ":"):
			f.comment = true
		case name == "id":
			f.id = value
		case name == "event":
			f.event = value
		case name == "data":
			f.data = value
		case name == "retry":
			f.retry = value
		default:
			e.t.Fatalf("the stream holds the line %q", line)
		}
	}
}

// next returns the ids of the next n events.
func (e *eventsOf) next(n int) (ids []string) {
	e.t.Helper()
	for len(ids) < n {
		f, err := e.frame()
		if err != nil {
			e.t.Fatalf("after %v: %v", ids, err)
		}
		if f.data == "" {
			continue
		}
		if f.event != "" || f.id == "" {
			e.t.Fatalf("after %v: %+v", ids, f)
		}
		ids = append(ids, eventID(e.t, []byte(f.data)))
	}
	return ids
}

func eventID(t *testing.T, document []byte) string {
	t.Helper()
	var event struct{ SpecVersion, ID, Type string }
	if err := json.Unmarshal(document, &event); err != nil || event.SpecVersion != "1.0" {
		t.Fatalf("%s is no CloudEvent: %v", document, err)
	}
	return event.ID
}

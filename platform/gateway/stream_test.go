package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/prometheus/client_golang/prometheus"

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
}

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
	s.server = httptest.NewServer(identified(s.gateway))
	t.Cleanup(func() {
		s.gateway.Drain()
		s.server.Close()
		if err := s.gateway.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// identified puts who sends a request where the gateway finds it.
func identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if who := r.Header.Get(whoHeader); who != "" {
			tenant, client, _ := strings.Cut(who, "/")
			r = r.WithContext(gateway.WithIdentity(r.Context(), gateway.Identity{Tenant: tenant, Client: client}))
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

func TestStreamOfServerSentEvents(t *testing.T) {
	t.Parallel()
	// Without heartbeats, at which a stream looks again.
	s := setupStreams(t, func(c *gateway.Config, _ *gateway.Deps) { c.HeartbeatInterval = time.Hour })
	s.publish(fact("placed", "a", 0))
	all, one := s.open("/v1/events"), s.open("/v1/orders/b/events", "Accept: text/event-stream")
	s.publish(fact("placed", "a", 1), fact("placed", "b", 1), fact("confirmed", "b", 2), fact("placed", "b-copy", 3), fact("placed", "b-", 4))
	if got := all.next(5); !slices.Equal(got, []string{"a-1", "b-1", "b-2", "b-copy-3", "b--4"}) {
		t.Errorf("all: %v", got)
	}
	if got := one.next(3); !slices.Equal(got, []string{"b-1", "b-2", "b-copy-3"}) {
		t.Errorf("one order: %v", got)
	}
	last := one.last
	s.publish(fact("confirmed", "b", 5))
	for name, resumed := range map[string]*eventsOf{
		"by header": s.open("/v1/orders/b/events", "Last-Event-ID: "+last),
		"by query":  s.open("/v1/orders/b/events?after=" + last),
		// A browser keeps the query it began with.
		"in spite of start": s.open("/v1/orders/b/events?start=earliest", "Last-Event-ID: "+last),
		"from the earliest": s.open("/v1/orders/b/events?start=earliest&exact.id=b-5"),
		"from a time":       s.open("/v1/orders/b/events?suffix.id=-5&start=" + url.QueryEscape(time.Now().Add(-time.Hour).Format(time.RFC3339))),
		"of some types":     s.open("/v1/events?start=earliest&types=shop.order.confirmed.v1&filter=" + url.QueryEscape("id LIKE '%-5'")),
	} {
		if got := resumed.next(1); got[0] != "b-5" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestHeadersOfStream(t *testing.T) {
	t.Parallel()
	s := setupStreams(t)
	header := s.get("/v1/events").Header
	for name, want := range map[string]string{
		"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no", "Vary": "Accept",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	head, err := s.server.Client().Head(s.server.URL + "/v1/events")
	if err != nil || head.StatusCode != http.StatusOK || head.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD is answered %v, %v", head, err)
	}
	_ = head.Body.Close()
}

func TestIdleStream(t *testing.T) {
	t.Parallel()
	s := setupStreams(t, func(c *gateway.Config, _ *gateway.Deps) { c.HeartbeatInterval = 20 * time.Millisecond })
	stream := s.open("/v1/orders/b/events")
	began := stream.last
	s.publish(fact("placed", "a", 1)) // which the stream does not show
	for beat, err := stream.frame(); stream.last == began; beat, err = stream.frame() {
		if err != nil || !beat.comment || beat.data != "" {
			t.Fatalf("instead of a heartbeat: %+v, %v", beat, err)
		}
	}
	s.publish(fact("placed", "b", 2))
	if got := s.open("/v1/orders/b/events", "Last-Event-ID: "+stream.last).next(1); got[0] != "b-2" {
		t.Errorf("after the position of a heartbeat: %v", got)
	}
	idle := s.open("/v1/placed", "Accept: text/event-stream")
	for {
		f, err := idle.frame()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || !f.comment {
			t.Fatalf("an idle stream shows %+v, %v", f, err)
		}
	}
}

func TestTenantsAreKeptApart(t *testing.T) {
	t.Parallel()
	s := setupStreams(t)
	of := func(tenant string) func(*events.Event) {
		return func(e *events.Event) { e.SetExtension(events.TenantExtension, tenant) }
	}
	acme, nobody := s.open("/v1/events", whoHeader+": acme/1"), s.open("/v1/events")
	s.publish(fact("placed", "a", 1), fact("placed", "a", 2, of("other")), fact("placed", "a", 3, of("acme")), fact("placed", "a", 4))
	s.publish(fact("placed", "a", 5, of("acme")))
	if got := acme.next(2); !slices.Equal(got, []string{"a-3", "a-5"}) {
		t.Errorf("acme sees %v", got)
	}
	if got := nobody.next(5); !slices.Equal(got, []string{"a-1", "a-2", "a-3", "a-4", "a-5"}) {
		t.Errorf("without an identity: %v", got)
	}
	past := s.open("/v1/events?start=earliest&filter="+url.QueryEscape("tenantid = 'other' OR TRUE"), whoHeader+": acme/1")
	if got := past.next(2); !slices.Equal(got, []string{"a-3", "a-5"}) {
		t.Errorf("of the past acme sees %v", got)
	}
}

func TestFollowersAreLimited(t *testing.T) {
	t.Parallel()
	s := setupStreams(t)
	wantCode := func(response *http.Response, status int, code string) {
		t.Helper()
		var p gateway.Problem
		if err := json.NewDecoder(response.Body).Decode(&p); err != nil || response.StatusCode != status || p.Code != code || response.Header.Get("Retry-After") == "" {
			t.Errorf("answered %s %q, %v", response.Status, p.Code, err)
		}
	}
	first := s.get("/v1/few", whoHeader+": acme/1")
	wantCode(s.get("/v1/few", whoHeader+": acme/2"), http.StatusTooManyRequests, "too_many_followers")
	s.open("/v1/few", whoHeader+": other/1")
	wantCode(s.get("/v1/few", whoHeader+": third/1"), http.StatusServiceUnavailable, "overloaded")
	_ = first.Body.Close()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) { // until the gateway has seen it go
		if again := s.get("/v1/few", whoHeader+": acme/2"); again.StatusCode == http.StatusOK {
			break
		}
		if time.Since(began) > patience {
			t.Fatal("a place is not given back")
		}
	}
}

// TestSlowReader lets a client read nothing until more has come than is kept for it.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	s := setupStreams(t, func(c *gateway.Config, _ *gateway.Deps) { c.Registerer = registry })
	slow := s.open("/v1/events")
	const many = 600
	data := []byte(`{"order_id":"` + strings.Repeat("x", 100<<10) + `"}`) // 60 MB in all
	for n := 0; n < many; n += 20 {
		var some []events.Event
		for i := range 20 {
			some = append(some, fact("placed", "a", n+i, func(e *events.Event) { e.Data = data }))
		}
		s.publish(some...)
	}
	for began := time.Now(); ended(t, registry, "overrun") == 0; time.Sleep(5 * time.Millisecond) {
		// What the sockets hold goes to the client, so that the gateway can tell the rest.
		if f, err := slow.frame(); err != nil || time.Since(began) > patience {
			t.Fatalf("%+v %v", f.event, err)
		}
	}
	var last frame
	for {
		f, err := slow.frame()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("the stream breaks off: %v", err)
			}
			break
		}
		last = f
	}
	if last.event != "overrun" || last.id != "" || !strings.Contains(last.data, `"retriable":true`) {
		t.Errorf("it ends with %+v", last)
	}
	var seen int
	_, _ = fmt.Sscanf(s.open("/v1/events", "Last-Event-ID: "+slow.last).next(1)[0], "a-%d", &seen)
	var before int
	_, _ = fmt.Sscanf(eventID(t, []byte(slow.data)), "a-%d", &before)
	if seen != before+1 {
		t.Errorf("after event %d comes %d", before, seen)
	}
}

func ended(t *testing.T, registry *prometheus.Registry, reason string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "countermand_stream_ends_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetValue() == reason {
					return metric.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

func TestDrainEndsStreams(t *testing.T) {
	t.Parallel()
	s := setupStreams(t)
	stream := s.open("/v1/events")
	polled := make(chan *http.Response, 1)
	var waiting sync.WaitGroup
	s.publish(fact("placed", "a", 1))
	stream.next(1)
	waiting.Go(func() { polled <- s.get("/v1/events", "Accept: application/cloudevents-batch+json", "Prefer: wait=15") })
	time.Sleep(50 * time.Millisecond) // for the poll to wait; without it there is nothing to see
	began := time.Now()
	s.gateway.Drain()
	f, err := stream.frame()
	if err != nil || f.retry == "" || f.data != "" || f.event != "" {
		t.Errorf("a stream that drains says %+v, %v", f, err)
	}
	if f, err := stream.frame(); !errors.Is(err, io.EOF) {
		t.Errorf("and then %+v, %v", f, err)
	}
	waiting.Wait()
	if response := <-polled; response.StatusCode != http.StatusNoContent || response.Header.Get("Last-Event-ID") == "" {
		t.Errorf("a poll that drains is answered %s", response.Status)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it takes %s", took)
	}
}

func TestLongPoll(t *testing.T) {
	t.Parallel()
	s := setupStreams(t)
	const batch = "Accept: application/cloudevents-batch+json"
	begin := s.get("/v1/events", batch)
	if begin.StatusCode != http.StatusNoContent || begin.Header.Get("Last-Event-ID") == "" {
		t.Fatalf("answered %s %v", begin.Status, begin.Header)
	}
	page := func(response *http.Response) (ids []string) {
		t.Helper()
		if got := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || got != "application/cloudevents-batch+json" {
			t.Fatalf("answered %s %q", response.Status, got)
		}
		var all []json.RawMessage
		if err := json.NewDecoder(response.Body).Decode(&all); err != nil {
			t.Fatal(err)
		}
		for _, one := range all {
			ids = append(ids, eventID(t, one))
		}
		return ids
	}
	s.publish(fact("placed", "a", 1), fact("placed", "a", 2), fact("placed", "a", 3))
	first := s.get("/v1/events?limit=2&after="+begin.Header.Get("Last-Event-ID"), batch, "Prefer: wait=10")
	if got := page(first); !slices.Equal(got, []string{"a-1", "a-2"}) {
		t.Errorf("the first page is %v", got)
	}
	if got := first.Header.Get("Preference-Applied"); got != "wait=10" {
		t.Errorf("applied %q", got)
	}
	next, rel, _ := strings.Cut(strings.TrimPrefix(first.Header.Get("Link"), "<"), ">")
	if rel != `; rel="next"` {
		t.Errorf("link %q", first.Header.Get("Link"))
	}
	second := s.get(next, batch, "Prefer: wait=10")
	if got := page(second); !slices.Equal(got, []string{"a-3"}) {
		t.Errorf("the second page is %v", got)
	}
	at := second.Header.Get("Last-Event-ID")
	if none := s.get("/v1/events", batch, "Last-Event-ID: "+at, "Prefer: wait=1"); none.StatusCode != http.StatusNoContent || none.Header.Get("Last-Event-ID") == "" {
		t.Errorf("nothing is answered %s", none.Status)
	}
	waited := make(chan *http.Response, 1)
	go func() { waited <- s.get("/v1/events", batch, "Last-Event-ID: "+at, "Prefer: wait=20") }()
	s.publish(fact("placed", "a", 4))
	if got := page(<-waited); !slices.Equal(got, []string{"a-4"}) {
		t.Errorf("what was waited for is %v", got)
	}
	sdk, err := cehttp.NewEventsFromHTTPResponse(s.get("/v1/placed?start=earliest"))
	if err != nil || len(sdk) != 4 || sdk[3].ID() != "a-4" || sdk[3].Validate() != nil {
		t.Errorf("the SDK of CloudEvents reads %v, %v", sdk, err)
	}
	if got := page(s.get("/v1/placed?start=earliest")); !slices.Equal(got, []string{"a-1", "a-2", "a-3", "a-4"}) {
		t.Errorf("what the route prefers is %v", got)
	}
}

func TestStreamsNeedASource(t *testing.T) {
	t.Parallel()
	b := setup(t)
	known := contracts(t)
	known.Facts = facts()
	table, err := gateway.ParseTable("routes.yaml", []byte(streamRoutes), known, lookupIn(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.gateway.SetTable(table); err == nil || !strings.Contains(err.Error(), "route all: this gateway was given no source of events") {
		t.Errorf("error = %v", err)
	}
}

func TestStreamRoutesThatAreWrong(t *testing.T) {
	t.Parallel()
	known := contracts(t)
	known.Facts = facts()
	const types = "types: [shop.order.placed.v1]"
	for fields, want := range map[string]string{
		"types: []":       "types: want a list of 1 to 64 facts",
		"types: [shop.x]": `types: "shop.x" is unknown, want one of shop.order.confirmed.v1`,
		"types: [shop.order.placed.v1, shop.order.placed.v1]":   "comes twice",
		"types: [shop.order.placed.v1, shop.review.decided.v1]": "give each topic a route of its own",
		types + ", filters: {exact: {id: a}}":                   "filters: want a list",
		types + ", filters: [{exact: {Id: a}}]":                 "filters: 0: exact: Id: want the name of an attribute",
		types + ", filters: [{any: [{sql: 'id ='}]}]":           "filters: 0: any: 0: sql: column 5",
		types + ", filters: [{exact: {subject: '{other}'}}]":    "filters: 0: exact: subject: the path has no parameter {other}",
		types + ", filters: [{sql: \"subject = '{id}'\"}]":      "filters: 0: sql: a parameter of the path cannot stand in sql",
		types + ", transports: [sse, carrier]":                  `transports: "carrier" is none of sse, poll, websocket`,
		types + ", transports: []":                              "transports: want a list of some of",
		types + ", heartbeat: 10ms":                             "heartbeat: want at least 1s",
		types + ", origins: ['https://*.example']":              "origins: want a scheme and a host",
		types + ", origins: [shop.example]":                     "origins: want a scheme and a host",
		types + ", limits: {followers: 0}":                      "limits: followers: want at least 1",
		types + ", limits: {per_user: 1}":                       `unknown field "per_user"`,
		types + ", publish: nowhere":                            "publish: there is no route nowhere of kind events",
		types + ", publish: a":                                  "publish: there is no route a of kind events",
		types + ", publish: nowhere, transports: [sse]":         "publish: events come in by websocket",
		types + ", match: 'POST /v1/orders/{id}'":               "match: streams are opened by GET",
		types + ", topic: shop.order.events":                    `unknown field "topic"`,
		types + ", guards: [{allow: 'event.id == \"1\"'}]":      "allow: ",
	} {
		match := "match: 'GET /v1/orders/{id}', "
		if strings.Contains(fields, "match:") {
			match = ""
		}
		_, err := gateway.ParseTable("routes.yaml", []byte("version: 1\nroutes:\n  - {id: a, kind: stream, "+match+fields+"}\n"), known, lookupIn(nil))
		if err == nil || !strings.Contains(err.Error(), "routes.yaml:3: route a: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", fields, err)
		}
	}
}

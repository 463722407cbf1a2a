package gateway_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/follow"
	"github.com/countermand/countermand/platform/gateway"
)

var update = flag.Bool("update", false, "write testdata/transcripts anew")

const transcriptRoutes = `
version: 1
upstreams:
  order: {url: "${ORDER_URL}"}
  slow: {url: "${SLOW_URL}", timeout: 50ms}
  down: {url: "http://127.0.0.1:1"}
routes:
  - id: place-order
    kind: command
    match: POST /v1/orders
    command: shop.checkout.request.v1
    outcome:
      completed: {status: 201, location: "/v1/orders/{id}"}
      rejected: {card_declined: 402}
  - {id: place-once, kind: command, match: PUT /v1/orders, command: shop.checkout.request.v1, idempotency: required}
  - {id: place-keyed, kind: command, match: POST /v1/keyed, command: shop.checkout.request.v1, key: body.customer}
  - {id: gift, kind: command, match: POST /v1/gifts, command: shop.checkout.request.v1, guards: [{allow: "false", detail: No gifts today.}]}
  - {id: audit, kind: command, match: POST /v1/audits, command: shop.audit.begin.v1, accept: outbox}
  - {id: decide, kind: signal, match: "POST /v1/orders/{id}/decision", signal: shop.review.decided.v1, to: shop.checkout.request.v1}
  - {id: order, kind: proxy, match: "GET /v1/orders/{id}", upstream: order}
  - {id: slow, kind: proxy, match: GET /v1/slow, upstream: slow}
  - {id: down, kind: proxy, match: GET /v1/down, upstream: down}
  - {id: guarded, kind: proxy, match: GET /v1/guarded, upstream: order, auth: {by: key, scopes: ["orders:read", "admin"]}}
  - {id: facts, kind: events, match: POST /v1/facts, types: [shop.order.placed.v1]}
  - {id: followed, kind: stream, match: GET /v1/events, types: [shop.order.placed.v1]}
  - {id: scarce, kind: stream, match: GET /v1/scarce, types: [shop.order.placed.v1], limits: {per_client: 1}}
  - {id: socket, kind: stream, match: GET /v1/socket, types: [shop.order.placed.v1], transports: [websocket]}
`

// transcript is one request and its answer, word for word.
type transcript struct {
	name    string // begins with the status
	request string // {id} stands for the operation that prepare returned
	prepare func(b *bundle) (id string)
	config  func(*gateway.Config, *gateway.Deps)
	server  func(*http.Server)
}

const (
	get    = "GET %s HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n%s\r\n"
	post   = "POST %s HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n%s"
	isJSON = "application/json"
)

// ask returns a request without a body.
func ask(path string, headers ...string) string { return fmt.Sprintf(get, path, lines(headers)) }

// sendBody returns a request with one.
func sendBody(path, contentType, body string, headers ...string) string {
	return fmt.Sprintf(post, path, contentType, len(body), lines(headers), body)
}

func place(headers ...string) string { return sendBody("/v1/orders", isJSON, order, headers...) }

func lines(headers []string) string {
	if len(headers) == 0 {
		return ""
	}
	return strings.Join(headers, "\r\n") + "\r\n"
}

func method(name, request string) string {
	_, rest, _ := strings.Cut(request, " ")
	return name + " " + rest
}

// ordered places an order, and at returns one that the engine has at that status.
func ordered(b *bundle) string { return decode[accepted](b.t, b.order()).ID }

func at(status gateway.Status, change ...func(*gateway.Operation)) func(*bundle) string {
	return func(b *bundle) string {
		id := ordered(b)
		op := b.project(id, status, nil)
		for _, change := range change {
			change(&op)
			b.operations.set(op)
		}
		return id
	}
}

// settles has the engine end every order at once.
func settles(status gateway.Status, code events.Code) func(*bundle) string {
	return func(b *bundle) string {
		b.broker.then = func(string) {
			go func() { // the broker is locked while it tells
				for _, m := range b.broker.messages() {
					var rejection *events.Rejection
					if code != "" {
						rejection = &events.Rejection{Code: code, Message: "The bank said no."}
					}
					b.project(m.PublishID, status, rejection)
					b.gateway.Notify(m.PublishID)
				}
			}()
		}
		return ""
	}
}

// followed places an order, and has a client follow it until the test ends.
func followed(b *bundle) string {
	b.t.Helper()
	id := ordered(b)
	b.project(id, gateway.StatusRunning, nil)
	server := httptest.NewServer(b.gateway)
	b.t.Cleanup(server.Close)
	ctx, cancel := context.WithCancel(b.t.Context())
	b.t.Cleanup(cancel) // before the server closes, which waits for it
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v1/operations/"+id+"/events", http.NoBody)
	if err != nil {
		b.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { response.Body.Close() })
	return id
}

func keyed(b *bundle) string { return decode[accepted](b.t, b.order("Idempotency-Key: k1")).ID }

func brokerFails(err error) func(*bundle) string {
	return func(b *bundle) string { b.broker.fail(err); return "" }
}

var another = strings.Replace(order, "TEA-001", "MUG-001", 1)

var transcripts = []transcript{
	{name: "200-operation", request: ask("/v1/operations/{id}"), prepare: at(gateway.StatusRunning)},
	{name: "200-operation-accepted", request: ask("/v1/operations/{id}"), prepare: ordered},
	{name: "200-operation-compensated", request: ask("/v1/operations/{id}"), prepare: at(gateway.StatusCompensated)},
	{name: "200-operation-abandoned", request: ask("/v1/operations/{id}"), prepare: at(gateway.StatusAbandoned)},
	{name: "200-list", request: ask("/v1/operations?limit=1"), prepare: func(b *bundle) string {
		b.operations.page = gateway.OperationPage{Next: "more", Operations: []gateway.Operation{running(b)}}
		return ""
	}},
	{name: "200-progress", request: ask("/v1/operations/{id}/events"), prepare: at(gateway.StatusCompleted)},
	{name: "200-proxy", request: ask("/v1/orders/7")},
	{name: "101-socket", request: upgrade("/v1/socket", "Sec-WebSocket-Protocol: cloudevents.json"), prepare: drained},
	{name: "200-stream", request: ask("/v1/events?start=earliest", "Accept: text/event-stream"), prepare: drained},
	{name: "200-poll", request: ask("/v1/events?start=earliest", acceptBatch)},
	{name: "204-poll", request: ask("/v1/events", acceptBatch, "Prefer: wait=1")},
	{name: "201-waited", request: place("Prefer: wait=10"), prepare: settles(gateway.StatusCompleted, "")},
	{name: "202-accepted", request: place()},
	{name: "202-respond-async", request: place("Prefer: respond-async, handling=strict")},
	{name: "202-replayed", request: place("Idempotency-Key: k1"), prepare: keyed},
	{name: "202-cancel", request: method("DELETE", ask("/v1/operations/{id}")), prepare: at(gateway.StatusRunning)},
	{name: "202-signal", request: sendBody("/v1/orders/{id}/decision", isJSON, decision), prepare: at(gateway.StatusRunning)},
	{name: "202-event", request: sendBody("/v1/facts", "application/cloudevents+json", placed("a"))},
	{name: "204-progress-known", request: ask("/v1/operations/{id}/events", "Last-Event-ID: 1"), prepare: at(gateway.StatusCompleted)},
	{
		name: "207-some-events", request: sendBody("/v1/facts", "application/cloudevents-batch+json", "["+placed("a")+","+placed("b")+"]"),
		config: func(_ *gateway.Config, d *gateway.Deps) { d.Publisher = halfway{d.Publisher.(*fakeBroker)} },
	},
	{name: "304-unchanged", request: ask("/v1/operations/{id}", "If-None-Match: *"), prepare: at(gateway.StatusRunning)},
	{name: "400-bad-path", request: ask("/v1/operations/%2e%2e/orders")},
	{name: "400-too-many-parameters", request: ask("/v1/operations?" + strings.Repeat("a=1&", 100) + "a=1")},
	{name: "400-query", request: ask("/v1/operations?limit=201")},
	{name: "400-preference", request: place("Prefer: wait=31, handling=strict")},
	{name: "400-expirytime", request: place("Ce-Expirytime: soon")},
	{name: "400-key-invalid", request: place("Idempotency-Key: a b")},
	{name: "400-key-required", request: method("PUT", place())},
	{name: "400-malformed", request: sendBody("/v1/orders", isJSON, `{"a":1,"a":2}`)},
	{name: "400-body-unreadable", request: "POST /v1/orders HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"},
	{name: "400-event", request: sendBody("/v1/facts", isJSON, `{"order_id":"7"}`, "Ce-Specversion: 1.0", "Ce-Id: 1", "Ce-Type: shop.order.placed.v1")},
	{name: "400-filter", request: ask("/v1/events?filter=type%20%3D&exact.Type=a")},
	{name: "400-position", request: ask("/v1/events", "Last-Event-ID: 7")},
	{name: "400-subprotocol", request: upgrade("/v1/socket")},
	{name: "402-rejected", request: place("Prefer: wait=10"), prepare: settles(gateway.StatusCompensated, "card_declined")},
	{name: "400-credentials", request: ask("/v1/guarded", byKey+"key-of-reader", asBearer+"key-of-reader")},
	{name: "401-no-credential", request: ask("/v1/guarded")},
	{name: "401-credential", request: ask("/v1/guarded", byKey+"key-of-yesterday")},
	{
		name: "401-credential-ended", request: ask("/v1/events", acceptBatch, "Prefer: wait=10"),
		server: func(server *http.Server) {
			server.Handler = withIdentity(server.Handler, gateway.Identity{Tenant: "acme", Client: "one", Expires: time.Now()})
		},
	},
	{name: "403-scope", request: ask("/v1/guarded", byKey+"key-of-shop")},
	{name: "404-another-tenant", request: ask("/v1/operations/{id}", byKey+"key-of-other"), prepare: at(gateway.StatusRunning)},
	{name: "503-credential", request: ask("/v1/guarded", byKey+"key-of-nobody-knows")},
	{name: "403-guard", request: sendBody("/v1/gifts", isJSON, order)},
	{name: "403-origin", request: upgrade("/v1/socket", "Sec-WebSocket-Protocol: cloudevents.json", "Origin: https://elsewhere.example")},
	{name: "404-path", request: ask("/v1/nothing")},
	{name: "404-command", request: sendBody("/v1/commands/shop.inventory.reserve.v1", isJSON, "{}")},
	{name: "404-operation", request: ask("/v1/operations/4f6b0f3e-1111-8111-8111-111111111111")},
	{name: "405-method", request: method("DELETE", ask("/v1/orders"))},
	{name: "406-progress", request: ask("/v1/operations/{id}/events", "Accept: application/json"), prepare: ordered},
	{name: "406-stream", request: ask("/v1/events", "Accept: text/html")},
	{
		name: "408-slow-body", server: func(s *http.Server) { s.ReadTimeout = 100 * time.Millisecond },
		request: "POST /v1/orders HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
	},
	{name: "409-cancel-refused", request: method("DELETE", ask("/v1/operations/{id}")), prepare: at(gateway.StatusRunning, func(op *gateway.Operation) { op.Command = "shop.inventory.reserve.v1" })},
	{name: "409-past-pivot", request: method("DELETE", ask("/v1/operations/{id}")), prepare: at(gateway.StatusRunning, func(op *gateway.Operation) { op.Pivoted = true })},
	{name: "409-ended", request: method("DELETE", ask("/v1/operations/{id}")), prepare: at(gateway.StatusCompleted)},
	{name: "409-unfinished", request: place("Idempotency-Key: k1", "Prefer: handling=strict"), prepare: keyed},
	{name: "409-business-key", request: sendBody("/v1/keyed", isJSON, another), prepare: func(b *bundle) string {
		return decode[accepted](b.t, b.do(http.MethodPost, "/v1/keyed", order)).ID
	}},
	{name: "409-compensated", request: place("Prefer: wait=10"), prepare: settles(gateway.StatusCompensated, "")},
	{name: "410-operation", request: ask("/v1/operations/{id}"), prepare: ordered, config: func(c *gateway.Config, _ *gateway.Deps) { c.AcceptedAgeMax = 1 }},
	{name: "410-position", request: ask("/v1/events", "Last-Event-ID: {id}"), prepare: oldPosition},
	{name: "413-body", request: "POST /v1/orders HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 262145\r\n\r\n"},
	{name: "415-media-type", request: sendBody("/v1/orders", "text/plain", order)},
	{name: "415-encoding", request: place("Content-Encoding: gzip")},
	{name: "415-no-event", request: sendBody("/v1/facts", isJSON, "{}")},
	{name: "422-schema", request: sendBody("/v1/orders", isJSON, `{"customer":""}`)},
	{name: "422-key-reused", request: sendBody("/v1/orders", isJSON, another, "Idempotency-Key: k1"), prepare: keyed},
	{name: "421-misdirected", request: strings.Replace(ask("/v1/orders/7"), "GET /", "GET http://other.example/", 1)},
	{name: "422-expired", request: place("Ce-Expirytime: 2020-01-01T00:00:00Z")},
	{name: "426-socket", request: ask("/v1/socket")},
	{
		name: "429-followers", request: ask("/v1/scarce"), prepare: following,
		server: func(server *http.Server) { server.Handler = clientOne(server.Handler) },
	},
	{name: "431-headers", request: ask("/v1/operations", slices.Repeat([]string{"X-A: 1"}, 101)...)},
	{name: "500-refused-by-the-broker", request: place(), prepare: brokerFails(broker.ErrRejected)},
	{name: "500-abandoned", request: place("Prefer: wait=10"), prepare: settles(gateway.StatusAbandoned, "")},
	{name: "502-upstream", request: ask("/v1/down")},
	{name: "503-followers", request: ask("/v1/operations/{id}/events"), prepare: followed, config: func(c *gateway.Config, _ *gateway.Deps) { c.FollowersMax = 1 }},
	{name: "503-overloaded", request: place(), prepare: brokerFails(broker.ErrOverloaded)},
	{name: "202-outbox", request: sendBody("/v1/audits", isJSON, "{}"), config: func(c *gateway.Config, d *gateway.Deps) {
		c.IntakeDurability, d.Intake = "fsync", storing{}
	}},
	{name: "503-store", request: sendBody("/v1/audits", isJSON, "{}")},
	{name: "503-broker", request: place(), prepare: brokerFails(broker.ErrUnavailable)},
	{
		name: "503-events", request: ask("/v1/events"),
		config: func(_ *gateway.Config, d *gateway.Deps) { d.Source = unreachable{d.Source} },
	},
	{name: "503-operations", request: ask("/v1/operations/{id}"), prepare: func(b *bundle) string {
		id := ordered(b)
		b.operations.fail(errors.New("no database"))
		return id
	}},
	{name: "504-upstream", request: ask("/v1/slow")},
}

// noDatabase is an intake whose database is away, and storing one that stores all.
type (
	noDatabase struct{}
	storing    struct{ noDatabase }
)

func (noDatabase) Accept(context.Context, broker.Message, string) (first string, repeated bool, err error) {
	return "", false, errors.New("no database")
}

func (noDatabase) Oldest(context.Context) (time.Time, error) { return time.Time{}, nil }

func (storing) Accept(context.Context, broker.Message, string) (first string, repeated bool, err error) {
	return "", false, nil
}

const acceptBatch = "Accept: application/cloudevents-batch+json"

// upgrade asks for a WebSocket.
func upgrade(path string, headers ...string) string {
	request := ask(path, append(headers, "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")...)
	return strings.Replace(request, "Connection: close", "Connection: Upgrade", 1)
}

// drained ends a stream as soon as it has begun.
func drained(b *bundle) string { b.gateway.Drain(); return "" }

// otherEpoch is a source whose topics were made anew.
type otherEpoch struct{ follow.Source }

func (otherEpoch) Epoch(context.Context, events.Topic) (string, error) { return "another", nil }

// unreachable is a source that cannot be asked.
type unreachable struct{ follow.Source }

func (unreachable) Epoch(context.Context, events.Topic) (string, error) {
	return "", broker.ErrUnavailable
}

// oldPosition returns a position from before the topic was made anew.
func oldPosition(b *bundle) string {
	hub := follow.New(otherEpoch{b.source}, follow.Config{Secret: []byte("a secret of enough bytes")})
	defer hub.Close()
	f, err := hub.Follow(b.t.Context(), "shop.order.events", follow.Start{}, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	return f.Position()
}

// following has a client open a stream.
func following(b *bundle) string {
	server := httptest.NewServer(clientOne(b.gateway))
	b.t.Cleanup(server.Close)
	ctx, cancel := context.WithCancel(context.Background())
	b.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v1/scarce", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	response, err := server.Client().Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = response.Body.Close() })
	return ""
}

func clientOne(next http.Handler) http.Handler {
	return withIdentity(next, gateway.Identity{Tenant: "acme", Client: "one"})
}

func withIdentity(next http.Handler, identity gateway.Identity) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(gateway.WithIdentity(r.Context(), identity)))
	})
}

func running(b *bundle) gateway.Operation { return b.project(ordered(b), gateway.StatusRunning, nil) }

// What differs from run to run.
var volatile = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), "<operation>"},
	{regexp.MustCompile(`"2[0-9]{3}-[0-9]{2}-[0-9]{2}T[^"]*"`), `"<time>"`},
	{regexp.MustCompile(`W/"[^"]+"`), `W/"<etag>"`},
	{regexp.MustCompile(`\bA[A-Za-z0-9_-]{24,}`), "<position>"},
	{regexp.MustCompile(`retry: [0-9]{4}\n\n$`), "retry: <milliseconds>\n\n"},
	{regexp.MustCompile(`(X-A: 1\n){101}`), "X-A: 1\n(and 100 more)\n"},
	{regexp.MustCompile(`(a=1&){100}`), "(100 times a=1)&"},
}

// TestTranscripts compares the answer to each request, as it is on the wire, with
// the one in testdata/transcripts. go test -run Transcripts -update writes them anew.
func TestTranscripts(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Date"] = nil
		_, _ = io.WriteString(w, `{"id":"7"}`)
	}))
	t.Cleanup(service.Close)
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(slow.Close)
	t.Cleanup(func() { close(release) })
	known := contracts(t)
	known.Facts = facts()
	table, err := gateway.ParseTable("routes.yaml", []byte(transcriptRoutes), known, lookupIn(map[string]string{"ORDER_URL": service.URL, "SLOW_URL": slow.URL}))
	if err != nil {
		t.Fatal(err)
	}
	source := streamBroker(t)
	if err := source.Ensure(t.Context(), table.Topics()...); err != nil {
		t.Fatal(err)
	}
	for _, receipt := range source.PublishBatch(t.Context(), []broker.Message{{Topic: "shop.order.events", Event: fact("placed", "7", 1)}}) {
		if receipt.Err != nil {
			t.Fatal(receipt.Err)
		}
	}
	for _, one := range transcripts {
		t.Run(one.name, func(t *testing.T) {
			b := setup(t, func(c *gateway.Config, d *gateway.Deps) {
				c.Logger, d.Keys, d.Source, d.Intake = slog.New(slog.DiscardHandler), keysOf, source, noDatabase{}
				if one.config != nil {
					one.config(c, d)
				}
			})
			b.source = source
			t.Cleanup(func() {
				if err := b.gateway.Close(context.Background()); err != nil {
					t.Error(err)
				}
			})
			if err := b.gateway.SetTable(table); err != nil {
				t.Fatal(err)
			}
			request := one.request
			if one.prepare != nil {
				id := one.prepare(b)
				request = strings.ReplaceAll(request, "{id}", id)
			}
			var change []func(*http.Server)
			if one.server != nil {
				change = append(change, one.server)
			}
			response, body := raw(t, b.serve(t, change...), request)
			got := written(request, response, body)
			if want := one.name[:3]; strconv.Itoa(response.StatusCode) != want {
				t.Fatalf("answered %d:\n%s", response.StatusCode, got)
			}
			file := filepath.Join("testdata", "transcripts", one.name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil || got != string(want) {
				t.Errorf("%v; got\n%s\nwant\n%s", err, got, want)
			}
		})
	}
}

// written puts a request and its answer into the form of the files.
func written(request string, response *http.Response, body string) string {
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(request, "\r\n", "\n") + "\n---\n")
	fmt.Fprintf(&b, "%s %s\n", response.Proto, response.Status)
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range response.Header {
			if name != "Date" && name != "Content-Length" && !yield(name) {
				return
			}
		}
	}) {
		fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(response.Header[name], ", "))
	}
	b.WriteString("\n" + body)
	text := b.String()
	for _, v := range volatile {
		text = v.what.ReplaceAllString(text, v.with)
	}
	return text
}

// TestEveryProblemHasATranscript reads the codes of the reference: each is shown with
// its status.
func TestEveryProblemHasATranscript(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("testdata/linked/http.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) != len(transcripts) {
		t.Fatalf("%d files, %d transcripts, %v", len(files), len(transcripts), err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	_, problems, _ := strings.Cut(string(page), "### Problems")
	problems, _, _ = strings.Cut(problems, "### Read APIs")
	rows := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([0-9]{3}) \\|").FindAllStringSubmatch(problems, -1)
	if len(rows) < 30 {
		t.Fatalf("the reference has %d codes", len(rows))
	}
	for _, row := range rows {
		if want := fmt.Sprintf(`"status":%s,`, row[2]); !regexp.MustCompile(want + `[^{}]*"code":"` + row[1] + `"`).MatchString(all.String()) {
			t.Errorf("no transcript shows %s %s", row[2], row[1])
		}
	}
}

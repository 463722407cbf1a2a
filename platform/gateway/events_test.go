package gateway_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
)

const eventRoutes = `
version: 1
routes:
  - id: order-events
    kind: events
    match: POST /v1/partners/orders
    types: [shop.order.placed.v1, shop.order.confirmed.v1]
    guards:
      - {allow: 'event.source.startsWith("/partners/")', code: foreign_source}
  - id: keyed
    kind: events
    match: POST /v1/partners/keyed
    types: [shop.order.placed.v1]
    key: body.order_id
    guards: [{allow: '!has(event.level) || event.level == "7"'}]
`

func facts() []gateway.Fact {
	schema := []byte(`{"type":"object","additionalProperties":false,"required":["order_id"],"properties":{"order_id":{"type":"string","minLength":1},"total":{"type":"integer"}}}`)
	return []gateway.Fact{
		{Type: "shop.order.placed.v1", Schema: schema},
		{Type: "shop.order.confirmed.v1", Schema: schema},
		{Type: "shop.review.decided.v1", Schema: schema},
	}
}

func setupEvents(t *testing.T) *bundle {
	t.Helper()
	b := setup(t)
	known := contracts(t)
	known.Facts = facts()
	table, err := gateway.ParseTable("routes.yaml", []byte(eventRoutes), known, lookupIn(nil))
	if err != nil {
		t.Fatal(err)
	}
	if topics := table.Topics(); len(topics) != 1 || topics[0] != "shop.order.events" {
		t.Fatalf("topics %v", topics)
	}
	config := gateway.Config{Secret: []byte("a secret of enough bytes"), Logger: slog.New(slog.DiscardHandler)}
	b.gateway, err = gateway.New(config, table, gateway.Deps{Publisher: b.broker, Operations: b.operations, Lookup: b.broker.Lookup})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	structured = "Content-Type: application/cloudevents+json; charset=UTF-8"
	batched    = "Content-Type: Application/CloudEvents-Batch+JSON"
)

func (b *bundle) event(body string, headers ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.do(http.MethodPost, "/v1/partners/orders", body, headers...)
}

// placed is an event in the JSON format; more are further members.
func placed(id string, more ...string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/partners/acme","type":"shop.order.placed.v1","data":{"order_id":"7", "total":1}%s}`,
		id, strings.Join(append([]string{""}, more...), ","))
}

type stored struct {
	Events []struct {
		ID, Source string
		Status     int
		Duplicate  bool
		Problem    *gateway.Problem
	}
}

func binary(more ...string) []string {
	return append([]string{"Ce-Specversion: 1.0", "Ce-Id: e 1", "Ce-Source: /partners/acme", "Ce-Type: shop.order.placed.v1"}, more...)
}

func TestEventsInEveryContentMode(t *testing.T) {
	t.Parallel()
	const data = `{"order_id":"7", "total":1}`
	for mode, send := range map[string]func(*bundle) *httptest.ResponseRecorder{
		"binary": func(b *bundle) *httptest.ResponseRecorder {
			return b.event(data, binary("Ce-Id: e%201", "Ce-Subject: K%C3%B6ln%2520", "Ce-Time: 2026-11-20T10:00:00.5+01:00", "Ce-Level: 7", "Ce-Dataschema: https://acme.example/s")...)
		},
		"structured": func(b *bundle) *httptest.ResponseRecorder {
			return b.event(placed("e 1", `"subject":"Köln%20","time":"2026-11-20T10:00:00.5+01:00","level":7,"dataschema":"https://acme.example/s","dataschema2":null`), structured)
		},
		"batch": func(b *bundle) *httptest.ResponseRecorder {
			return b.event("["+placed("e 1", `"subject":"Köln%20","time":"2026-11-20T10:00:00.5+01:00","level":"7","dataschema":"https://acme.example/s"`)+"]", batched)
		},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			b := setupEvents(t)
			w := send(b)
			wantStatus(t, w, http.StatusAccepted)
			wantHeader(t, w, "Cache-Control", "no-store")
			if a := decode[stored](t, w); len(a.Events) != 1 || a.Events[0].ID != "e 1" || a.Events[0].Source != "/partners/acme" || a.Events[0].Duplicate {
				t.Errorf("answered %s", w.Body)
			}
			m := b.broker.messages()[0]
			e := m.Event
			if m.Topic != "shop.order.events" || e.ID != "e 1" || e.Source != "/partners/acme" || e.Type != "shop.order.placed.v1" || e.Subject != "Köln%20" ||
				!e.Time.Equal(time.Date(2026, 11, 20, 9, 0, 0, 5e8, time.UTC)) || e.DataContentType != "application/json" || e.DataSchema != "https://acme.example/s" ||
				string(e.Data) != data || e.Extension("level") != "7" || e.PartitionKey != "Köln%20" || m.PublishID == e.ID {
				t.Errorf("published %+v as %s", e, m.PublishID)
			}
			if err := e.Validate(); err != nil {
				t.Error(err)
			}
			again := send(b)
			wantStatus(t, again, http.StatusAccepted)
			if a := decode[stored](t, again); !a.Events[0].Duplicate || len(b.broker.messages()) != 1 {
				t.Errorf("a repeat is answered %s", again.Body)
			}
		})
	}
}

func TestDataInBase64(t *testing.T) {
	t.Parallel()
	b := setupEvents(t)
	const data = `{"order_id":"8"}`
	event := strings.Replace(placed("e1"), `"data":{"order_id":"7", "total":1}`, `"data_base64":"`+base64.StdEncoding.EncodeToString([]byte(data))+`"`, 1)
	wantStatus(t, b.event(event, structured), http.StatusAccepted)
	if got := string(b.broker.messages()[0].Event.Data); got != data {
		t.Errorf("published %s", got)
	}
}

// Only the edge says who sent an event and what it belongs to.
func TestReservedExtensionsAreTheEdges(t *testing.T) {
	t.Parallel()
	b := setupEvents(t)
	acme := gateway.WithIdentity(t.Context(), gateway.Identity{Tenant: "acme", Client: "c1"})
	reserved := []string{
		"correlationid", "causationid", "traceparent", "tracestate", "replyto", "undoes", "tenantid", "clientid",
		"authtype", "authid", "authclaims", "fingerprint", "schedule", "scheduledtime", "watermillmetadata",
	}
	headers := binary("Ce-Id: one")
	var members strings.Builder
	for _, name := range reserved {
		headers = append(headers, "Ce-"+name+": forged")
		fmt.Fprintf(&members, `,%q:"forged"`, name)
	}
	trace := "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	wantStatus(t, b.doContext(acme, http.MethodPost, "/v1/partners/orders", `{"order_id":"7"}`, append(headers, trace)...), http.StatusAccepted)
	wantStatus(t, b.doContext(acme, http.MethodPost, "/v1/partners/orders", strings.TrimSuffix(placed("two"), "}")+members.String()+"}", structured, trace), http.StatusAccepted)
	for _, m := range b.broker.messages() {
		e := m.Event
		if e.Extension("tenantid") != "acme" || e.Extension("clientid") != "c1" || e.CorrelationID != m.PublishID || !strings.HasPrefix(e.TraceParent, "00-0af7651916cd43dd8448eb211c80319c-") {
			t.Errorf("published %+v", e)
		}
		for _, name := range reserved {
			if e.Extension(name) == "forged" {
				t.Errorf("%s is the client's", name)
			}
		}
	}
	if a, b := b.broker.messages()[0].Event, "one"; a.ID != b {
		t.Errorf("id %q", a.ID)
	}
}

func TestTenantsDoNotShareEventIDs(t *testing.T) {
	t.Parallel()
	b := setupEvents(t)
	for _, tenant := range []string{"acme", "other"} {
		ctx := gateway.WithIdentity(t.Context(), gateway.Identity{Tenant: tenant})
		wantStatus(t, b.doContext(ctx, http.MethodPost, "/v1/partners/orders", placed("e1"), structured), http.StatusAccepted)
	}
	if n := len(b.broker.messages()); n != 2 {
		t.Errorf("%d events are stored", n)
	}
}

func TestThePartitionKeyOfAnEvent(t *testing.T) {
	t.Parallel()
	b := setupEvents(t)
	wantStatus(t, b.event(placed("a", `"partitionkey":"p","subject":"s"`), structured), http.StatusAccepted)
	wantStatus(t, b.event(placed("b", `"subject":"s"`), structured), http.StatusAccepted)
	wantStatus(t, b.event(placed("c"), structured), http.StatusAccepted)
	wantStatus(t, b.do(http.MethodPost, "/v1/partners/keyed", placed("d", `"partitionkey":"p"`), structured), http.StatusAccepted)
	for i, want := range []string{"p", "s", "c", "7"} {
		e := b.broker.messages()[i].Event
		if e.Key() != want {
			t.Errorf("event %s has key %q, want %q", e.ID, e.Key(), want)
		}
	}
}

func TestEventsThatAreRefused(t *testing.T) {
	t.Parallel()
	b := setupEvents(t)
	for _, test := range []struct {
		what    string
		body    string
		headers []string
		status  int
		code    string
		pointer string // of the first fault
		detail  string // in the first fault
	}{
		{"no event", `{"order_id":"7"}`, nil, 415, "unsupported_media_type", "", ""},
		{"another format", `x`, []string{"Content-Type: application/cloudevents+avro"}, 415, "unsupported_media_type", "", ""},
		{"another charset", placed("a"), []string{"Content-Type: application/cloudevents+json; charset=latin1"}, 415, "unsupported_media_type", "", ""},
		{"an encoded body", placed("a"), []string{structured, "Content-Encoding: gzip"}, 415, "unsupported_encoding", "", ""},
		{"data that is no JSON", `<a/>`, binary("Content-Type: text/xml"), 400, "invalid_event", "", "datacontenttype"},
		{"broken data", `{"order_id":`, binary(), 400, "invalid_event", "/order_id", "ends too early"},
		{"data against the schema", `{"total":"1"}`, binary(), 422, "invalid_request", "/order_id", "is required"},
		{"another version", `{"order_id":"7"}`, binary("Ce-Specversion: 0.3"), 400, "invalid_event", "", "specversion"},
		{"bad percent-encoding", `{"order_id":"7"}`, binary("Ce-Subject: %zz"), 400, "invalid_event", "", "percent-encoding"},
		{"no UTF-8", `{"order_id":"7"}`, binary("Ce-Subject: %ff"), 400, "invalid_event", "", "not UTF-8"},
		{"a control character", `{"order_id":"7"}`, binary("Ce-Subject: a%0Ab"), 400, "invalid_event", "", "control character"},
		{"a long id", `{"order_id":"7"}`, binary("Ce-Id: " + strings.Repeat("x", 129)), 400, "invalid_event", "", "129 bytes"},
		{"a long extension", `{"order_id":"7"}`, binary("Ce-Ext: " + strings.Repeat("x", 1025)), 400, "invalid_event", "", "1025 bytes"},
		{"a bad name", `{"order_id":"7"}`, binary("Ce-My-Ext: x"), 400, "invalid_event", "", "my-ext"},
		{"a bad time", `{"order_id":"7"}`, binary("Ce-Time: today"), 400, "invalid_event", "", "RFC 3339"},
		{"a relative schema", `{"order_id":"7"}`, binary("Ce-Dataschema: s.json"), 400, "invalid_event", "", "absolute URI"},
		{"a source that is no URI", `{"order_id":"7"}`, binary("Ce-Source: :a"), 400, "invalid_event", "", "URI reference"},
		{"datacontenttype as a header of its own", `{"order_id":"7"}`, binary("Ce-Datacontenttype: application/json"), 400, "invalid_event", "", "content-type"},
		{"too late", `{"order_id":"7"}`, binary("Ce-Expirytime: 2020-01-01T00:00:00Z"), 400, "invalid_event", "", "has passed"},
		{"no time of expiry", `{"order_id":"7"}`, binary("Ce-Expirytime: soon"), 400, "invalid_event", "", "RFC 3339"},
		{"another type", `{"order_id":"7"}`, binary("Ce-Type: shop.review.decided.v1"), 400, "invalid_event", "", "this route takes shop.order.confirmed.v1, shop.order.placed.v1"},
		{"a guard", `{"order_id":"7"}`, binary("Ce-Source: /services/order"), 403, "foreign_source", "", "is refused"},
		{"no JSON", `{`, []string{structured}, 400, "malformed_json", "", ""},
		{"a field twice", placed("a", `"id":"b"`), []string{structured}, 400, "malformed_json", "/id", "comes twice"},
		{"a list", `[]`, []string{structured}, 400, "invalid_event", "", ""},
		{"null", `null`, []string{structured}, 400, "invalid_event", "", ""},
		{"no batch", placed("a"), []string{batched}, 400, "invalid_event", "", ""},
		{"a null in a batch", "[" + placed("a") + ",null]", []string{batched}, 400, "invalid_event", "/1", "must be an object"},
		{"an id that is a number", strings.Replace(placed("a"), `"a"`, "1", 1), []string{structured}, 400, "invalid_event", "/id", "must be a text"},
		{"an extension that is an object", placed("a", `"ext":{}`), []string{structured}, 400, "invalid_event", "/ext", "must be a text"},
		{"an extension over 32 bits", placed("a", `"ext":2147483648`), []string{structured}, 400, "invalid_event", "/ext", "32 bits"},
		{"upper case", placed("a", `"Ext":"x"`), []string{structured}, 400, "invalid_event", "", "extension name"},
		{"both sorts of data", placed("a", `"data_base64":"e30="`), []string{structured}, 400, "invalid_event", "/data_base64", "exclude"},
		{"no base64", `{"specversion":"1.0","id":"a","source":"/partners/a","type":"shop.order.placed.v1","data_base64":"?"}`, []string{structured}, 400, "invalid_event", "/data_base64", "base64"},
		{"another content type", placed("a", `"datacontenttype":"text/plain"`), []string{structured}, 400, "invalid_event", "/datacontenttype", "application/json"},
		{"no data", `{"specversion":"1.0","id":"a","source":"/partners/a","type":"shop.order.placed.v1"}`, []string{structured}, 422, "invalid_request", "/data", "must be an object"},
		{"one of a batch", "[" + placed("a") + "," + strings.Replace(placed("b"), `"7"`, `""`, 1) + "]", []string{batched}, 422, "invalid_request", "/1/data/order_id", "at least 1"},
		{"the same event twice", "[" + placed("a") + "," + placed("a") + "]", []string{batched}, 400, "invalid_event", "/1", "earlier event"},
		{"a guard against one of a batch", "[" + placed("a") + "," + strings.Replace(placed("b"), "/partners/acme", "/x", 1) + "]", []string{batched}, 403, "foreign_source", "/1", "is refused"},
		{"too many", "[" + strings.Repeat("{},", broker.BatchMessagesMax) + "{}]", []string{batched}, 413, "body_too_large", "", ""},
	} {
		p := decode[gateway.Problem](t, b.event(test.body, test.headers...))
		if p.Status != test.status || p.Code != test.code {
			t.Errorf("%s: %+v, want %d %s", test.what, p, test.status, test.code)
			continue
		}
		if test.detail != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != test.pointer || !strings.Contains(p.Errors[0].Detail, test.detail)) {
			t.Errorf("%s: faults %+v, want %q with %q", test.what, p.Errors, test.pointer, test.detail)
		}
	}
	w := b.event(`{}`)
	wantHeader(t, w, "Accept-Post", "application/cloudevents+json, application/cloudevents-batch+json, application/json")
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/partners/orders", strings.NewReader(`{"order_id":"7"}`))
	r.Header = http.Header{
		"Content-Type": {"application/json"}, "Ce-Specversion": {"1.0"}, "Ce-Id": {"a", "b"},
		"Ce-Source": {"/partners/a"}, "Ce-Type": {"shop.order.placed.v1"},
	}
	twice := httptest.NewRecorder()
	b.gateway.ServeHTTP(twice, r)
	wantProblem(t, twice, http.StatusBadRequest, "invalid_event")
	if n := len(b.broker.messages()); n != 0 {
		t.Errorf("%d events were published", n)
	}
}

// halfway stores the first message of a batch and then loses the broker.
type halfway struct{ *fakeBroker }

func (h halfway) PublishTogether(_ context.Context, messages []broker.Message) []broker.Receipt {
	receipts := make([]broker.Receipt, len(messages))
	receipts[0] = h.publish(messages[0])
	for i := range receipts[1:] {
		receipts[i+1].Err = fmt.Errorf("%w: gone", broker.ErrUnavailable)
	}
	return receipts
}

func TestABatchOfWhichOnlySomeIsStored(t *testing.T) {
	t.Parallel()
	known := contracts(t)
	known.Facts = facts()
	table, err := gateway.ParseTable("routes.yaml", []byte(eventRoutes), known, lookupIn(nil))
	if err != nil {
		t.Fatal(err)
	}
	b := setup(t, func(_ *gateway.Config, d *gateway.Deps) { d.Publisher = halfway{d.Publisher.(*fakeBroker)} })
	if err := b.gateway.SetTable(table); err != nil {
		t.Fatal(err)
	}
	w := b.event("["+placed("a")+","+placed("b")+"]", batched)
	wantStatus(t, w, http.StatusMultiStatus)
	wantHeader(t, w, "Retry-After", "1")
	a := decode[stored](t, w).Events
	if len(a) != 2 || a[0].Status != 202 || a[0].Problem != nil || a[1].ID != "b" || a[1].Status != 503 || a[1].Problem == nil ||
		a[1].Problem.Code != "broker_unavailable" || !a[1].Problem.Retriable {
		t.Errorf("answered %s", w.Body)
	}
}

func TestEventsThatCannotBeStored(t *testing.T) {
	t.Parallel()
	b := setupEvents(t)
	for _, test := range []struct {
		err    error
		status int
		code   string
		later  string
	}{
		{broker.ErrOverloaded, http.StatusServiceUnavailable, "overloaded", "1"},
		{broker.ErrUnavailable, http.StatusServiceUnavailable, "broker_unavailable", "1"},
		{broker.ErrRejected, http.StatusInternalServerError, "internal_error", ""},
	} {
		b.broker.fail(test.err)
		for _, w := range []*httptest.ResponseRecorder{b.event(placed("a"), structured), b.event("["+placed("a")+","+placed("b")+"]", batched)} {
			wantProblem(t, w, test.status, test.code)
			wantHeader(t, w, "Retry-After", test.later)
		}
	}
}

func TestAnEmptyBatch(t *testing.T) {
	t.Parallel()
	w := setupEvents(t).event("[]", batched)
	wantStatus(t, w, http.StatusAccepted)
	if got := strings.TrimSpace(w.Body.String()); got != `{"events":[]}` {
		t.Errorf("answered %s", got)
	}
}

func TestEventRoutesThatAreWrong(t *testing.T) {
	t.Parallel()
	known := contracts(t)
	known.Facts = facts()
	for fields, want := range map[string]string{
		"match: PUT /a, types: [shop.order.placed.v1]": `match: events come by POST`,
		"match: POST /a":                              `types: want a list of 1 to 64 facts`,
		"match: POST /a, types: []":                   `types: want a list of 1 to 64 facts`,
		"match: POST /a, types: [shop.order.lost.v1]": `types: "shop.order.lost.v1" is unknown, want one of shop.order.confirmed.v1, shop.order.placed.v1, shop.review.decided.v1`,
		"match: POST /a, types: [shop.order.placed.v1, shop.order.placed.v1]":         `types: shop.order.placed.v1 comes twice`,
		"match: POST /a, types: [shop.order.placed.v1, shop.review.decided.v1]":       `types: shop.review.decided.v1 goes to shop.review.events and the ones before to shop.order.events: give each topic a route of its own`,
		"match: POST /a, types: [shop.order.placed.v1], key: event":                   `key: it gives map(string, string), want string`,
		"match: POST /a, types: [shop.order.placed.v1], guards: [{allow: event.x.y}]": `guard 1: allow: column 8: type 'string' does not support field selection`,
		"match: POST /a, types: [shop.order.placed.v1], idempotency: required":        `unknown field "idempotency", want one of auth, guards, id, key, kind, match, types`,
	} {
		_, err := gateway.ParseTable("r", []byte("version: 1\nroutes: [{id: a, kind: events, "+fields+"}]"), known, lookupIn(nil))
		if err == nil || !strings.Contains(err.Error(), "r:2: route a: "+want) {
			t.Errorf("%s:\n got %v\nwant %s", fields, err, want)
		}
	}
}

func TestExplainAnEvent(t *testing.T) {
	t.Parallel()
	known := contracts(t)
	known.Facts = facts()
	table, err := gateway.ParseTable("routes.yaml", []byte(eventRoutes), known, lookupIn(nil))
	if err != nil {
		t.Fatal(err)
	}
	explain := func(source string) gateway.Explanation {
		body := strings.Replace(placed("a"), "/partners/acme", source, 1)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/partners/orders", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/cloudevents+json")
		return table.Explain(r, []byte(body))
	}
	if e := explain("/partners/acme"); e.Problem != nil || e.Route == nil || e.Route.Leads != string(events.FactTopic("shop.order.placed.v1")) {
		t.Errorf("explained %+v", e)
	}
	if e := explain("/x"); e.Problem == nil || e.Problem.Code != "foreign_source" {
		t.Errorf("explained %+v", e.Problem)
	}
}

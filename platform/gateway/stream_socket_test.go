package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/countermand/countermand/platform/gateway"
)

// socket opens a WebSocket.
func (s *streams) socket(path string, headers ...string) *websocket.Conn {
	s.t.Helper()
	header := make(http.Header)
	for _, one := range headers {
		name, value, _ := strings.Cut(one, ": ")
		header.Set(name, value)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, s.server.URL+path, &websocket.DialOptions{Subprotocols: []string{"cloudevents.json"}, HTTPHeader: header})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.CloseNow() })
	if conn.Subprotocol() != "cloudevents.json" {
		s.t.Fatalf("the subprotocol is %q", conn.Subprotocol())
	}
	return conn
}

// received is an event of a socket.
type received struct {
	ID, Type, Subject, Source string
	Position                  string          `json:"streamposition"`
	Data                      json.RawMessage `json:"data"`
}

func receive(t *testing.T, conn *websocket.Conn) received {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	kind, message, err := conn.Read(ctx)
	if err != nil || kind != websocket.MessageText {
		t.Fatalf("%v, %v", kind, err)
	}
	var e received
	if err := json.Unmarshal(message, &e); err != nil {
		t.Fatalf("%s: %v", message, err)
	}
	return e
}

func closing(t *testing.T, conn *websocket.Conn, code websocket.StatusCode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		if _, _, err := conn.Read(ctx); err != nil {
			if got := websocket.CloseStatus(err); got != code {
				t.Errorf("closed with %d, want %d: %v", got, code, err)
			}
			return
		}
	}
}

func say(t *testing.T, conn *websocket.Conn, message string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		t.Fatal(err)
	}
}

func TestEventsOutOverWebSocket(t *testing.T) {
	t.Parallel()
	s := setupStreams(t, func(c *gateway.Config, _ *gateway.Deps) { c.HeartbeatInterval = 20 * time.Millisecond }) // pings too
	conn := s.socket("/v1/orders/b/events")
	s.publish(fact("placed", "a", 1), fact("placed", "b", 2), fact("confirmed", "b", 3))
	first := receive(t, conn)
	if first.ID != "b-2" || first.Position == "" {
		t.Errorf("got %+v", first)
	}
	if second := receive(t, conn); second.ID != "b-3" {
		t.Errorf("got %+v", second)
	}
	_ = conn.Close(websocket.StatusNormalClosure, "")
	again := s.socket("/v1/orders/b/events?after=" + first.Position)
	if e := receive(t, again); e.ID != "b-3" {
		t.Errorf("after %s comes %+v", first.ID, e)
	}
	say(t, again, placed("x")) // which this route takes none of
	closing(t, again, websocket.StatusPolicyViolation)
}

func TestEventsInOverWebSocket(t *testing.T) { //nolint:tparallel // its parts come one after the other on one connection
	t.Parallel()
	s := setupStreams(t)
	conn := s.socket("/v1/events?filter=FALSE", whoHeader+": acme/1")
	event := func(id, source, data string) string {
		return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":%q,"type":"shop.order.placed.v1","subject":"7","tenantid":"other","data":%s}`, id, source, data)
	}
	const good = `{"order_id":"7"}`
	for _, one := range []struct {
		name, message, subject string
		status                 int
		code                   string
		duplicate              bool
	}{
		{"stored", event("1", "/partners/p", good), "1", 202, "", false},
		{"again", event("1", "/partners/p", good), "1", 202, "", true},
		{"no JSON", "{", "", 400, "malformed_json", false},
		{"no event", "{}", "", 400, "invalid_event", false},
		{"against its schema", event("2", "/partners/p", `{"order_id":7}`), "2", 422, "invalid_request", false},
		{"against a guard", event("3", "/others", good), "3", 403, "foreign_source", false},
		{"another type", strings.Replace(event("4", "/partners/p", good), "placed", "confirmed", 1), "4", 400, "invalid_event", false},
		{"a batch", "[" + event("5", "/partners/p", good) + "]", "", 400, "invalid_event", false},
		{"after all that", event("6", "/partners/p", good), "6", 202, "", false},
	} {
		t.Run(one.name, func(t *testing.T) {
			say(t, conn, one.message)
			answer := receive(t, conn)
			var became struct {
				ID        string
				Status    int
				Duplicate bool
				Problem   *gateway.Problem
			}
			if err := json.Unmarshal(answer.Data, &became); err != nil {
				t.Fatalf("%s: %v", answer.Data, err)
			}
			want := "countermand.event.accepted.v1"
			if one.code != "" {
				want = "countermand.event.refused.v1"
			}
			if answer.Type != want || answer.Subject != one.subject || answer.Source != "/v1/events" || became.Status != one.status || became.Duplicate != one.duplicate {
				t.Errorf("answered %+v %s", answer, answer.Data)
			}
			if one.code != "" && (became.Problem == nil || became.Problem.Code != one.code) {
				t.Errorf("the problem is %+v", became.Problem)
			}
		})
	}
	all := s.open("/v1/events?start=earliest&exact.tenantid=acme")
	if got := all.next(2); !slices.Equal(got, []string{"1", "6"}) {
		t.Errorf("stored for the tenant: %v", got)
	}
}

func TestMessagesOverWebSocketAreAnsweredInOrder(t *testing.T) {
	t.Parallel()
	s := setupStreams(t)
	conn := s.socket("/v1/events?filter=FALSE")
	const many = 300 // more than may wait
	go func() {
		for n := range many {
			message := fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"/partners/p","type":"shop.order.placed.v1","subject":"7","data":{"order_id":"7"}}`, n)
			_ = conn.Write(t.Context(), websocket.MessageText, []byte(message))
		}
	}()
	for n := range many {
		if e := receive(t, conn); e.Type != "countermand.event.accepted.v1" || e.Subject != strconv.Itoa(n) {
			t.Fatalf("answer %d is %+v %s", n, e, e.Data)
		}
	}
	all := s.open("/v1/events?start=earliest")
	for n, id := range all.next(many) {
		if id != strconv.Itoa(n) {
			t.Fatalf("event %d of the order is %s", n, id)
		}
	}
}

func TestWebSocketsThatAreClosed(t *testing.T) {
	t.Parallel()
	s := setupStreams(t, func(c *gateway.Config, _ *gateway.Deps) { c.BodyBytesMax = 1000 })
	binary := s.socket("/v1/events")
	if err := binary.Write(t.Context(), websocket.MessageBinary, []byte(placed("x"))); err != nil {
		t.Fatal(err)
	}
	closing(t, binary, websocket.StatusUnsupportedData)
	large := s.socket("/v1/events")
	say(t, large, strings.Repeat("x", 1001))
	closing(t, large, websocket.StatusMessageTooBig)
	page := s.socket("/v1/events", "Origin: https://pages.example")
	both := []*websocket.Conn{page, s.socket("/v1/socket", "Origin: "+s.server.URL)}
	s.publish(fact("placed", "a", 1))
	for _, conn := range both {
		receive(t, conn)
	}
	s.gateway.Drain()
	for _, conn := range both {
		closing(t, conn, websocket.StatusGoingAway)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.gateway.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestEventsInOverWebSocketNeedTheScopesOfTheirRoute(t *testing.T) {
	t.Parallel()
	s := setupStreams(t, func(_ *gateway.Config, d *gateway.Deps) {
		d.Keys = func(_ context.Context, key string) (gateway.Identity, error) {
			return gateway.Identity{Tenant: "acme", Client: "app", Scopes: []string{key}}, nil
		}
	})
	known := contracts(t)
	known.Facts = facts()
	table, err := gateway.ParseTable("routes.yaml", []byte(`
version: 1
routes:
  - {id: all, kind: stream, match: GET /v1/events, types: [shop.order.placed.v1], auth: key, publish: facts}
  - {id: facts, kind: events, match: POST /v1/facts, types: [shop.order.placed.v1], auth: {by: key, scopes: ["events:write"]}}
`), known, lookupIn(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.gateway.SetTable(table); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"events:read": "403 scope_missing", "events:write": "202 "} {
		conn := s.socket("/v1/events?filter=FALSE", "X-Api-Key: "+key)
		say(t, conn, `{"specversion":"1.0","id":"1","source":"/p","type":"shop.order.placed.v1","subject":"7","data":{"order_id":"7"}}`)
		var became struct {
			Status  int
			Problem struct{ Code string }
		}
		if err := json.Unmarshal(receive(t, conn).Data, &became); err != nil {
			t.Fatal(err)
		}
		if got := strconv.Itoa(became.Status) + " " + became.Problem.Code; got != want {
			t.Errorf("with the scope %s: %s, want %s", key, got, want)
		}
	}
}

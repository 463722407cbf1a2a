package contract

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
)

func TestTheGatewaysDocumentIsOpenAPI31(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", "openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	_, faults := load(t, content).ValidateDocument()
	tell(t, "docs/reference/openapi.json", faults)
}

const table = `
version: 1
auth: {default: {by: key, scopes: [write]}}
upstreams:
  down: {url: "http://127.0.0.1:1"}
routes:
  - {id: begin, kind: command, match: POST /v1/things, command: test.thing.begin.v1}
  - {id: once, kind: command, match: PUT /v1/things, command: test.thing.begin.v1, idempotency: required}
  - {id: tell, kind: events, match: POST /v1/facts, types: [test.thing.told.v1]}
  - {id: decide, kind: signal, match: "POST /v1/things/{id}/decision", signal: test.thing.decided.v1, to: test.thing.begin.v1}
  - {id: down, kind: proxy, match: "GET /v1/down/{id}", upstream: down}
`

// store is a broker that stores everything, and operations that know nothing.
type store struct{}

// Publish implements [gateway.Publisher].
func (store) Publish(context.Context, broker.Message) (broker.Receipt, error) {
	return broker.Receipt{}, nil
}

// PublishTogether implements [gateway.Publisher].
func (store) PublishTogether(_ context.Context, messages []broker.Message) []broker.Receipt {
	return make([]broker.Receipt, len(messages))
}

// Get implements [gateway.Operations].
func (store) Get(context.Context, string) (gateway.Operation, error) {
	return gateway.Operation{}, gateway.ErrNotFound
}

// Changed implements [gateway.Operations].
func (store) Changed(context.Context, []gateway.Seen) ([]gateway.Operation, error) { return nil, nil }

// List implements [gateway.Operations].
func (store) List(context.Context, gateway.OperationFilter) (gateway.OperationPage, error) {
	return gateway.OperationPage{}, nil
}

// Whatever the gateway answers is in the document that it serves.
func TestTheGatewayAnswersWhatItsDocumentSays(t *testing.T) {
	schema := []byte(`{"type":"object","properties":{"n":{"$ref":"#/$defs/n"}},"required":["n"],"additionalProperties":false,"$defs":{"n":{"type":"integer"}}}`)
	parsed, err := gateway.ParseTable("routes.yaml", []byte(table), gateway.Contracts{
		Commands: []gateway.Command{{Type: "test.thing.begin.v1", Topic: events.CommandTopic("test.thing.begin.v1"), Schema: schema, Saga: true}},
		Signals:  []gateway.Signal{{Type: "test.thing.decided.v1", Schema: schema}},
		Facts:    []gateway.Fact{{Type: "test.thing.told.v1", Schema: schema}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{Secret: []byte("a secret of enough bytes"), Logger: slog.New(slog.DiscardHandler)}, parsed, gateway.Deps{
		Publisher: store{}, Operations: store{},
		Lookup: func(context.Context, events.Topic, int, uint64) (broker.Delivery, error) {
			return broker.Delivery{}, broker.ErrNotFound
		},
		Keys: func(_ context.Context, key string) (gateway.Identity, error) {
			switch key {
			case "good":
				return gateway.Identity{Tenant: "a", Client: "b", Scopes: []string{"write"}}, nil
			case "poor":
				return gateway.Identity{Tenant: "a", Client: "b"}, nil
			case "down":
				return gateway.Identity{}, io.ErrUnexpectedEOF
			}
			return gateway.Identity{}, gateway.ErrCredentialRefused
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	served := httptest.NewRecorder()
	g.ServeHTTP(served, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/openapi.json", http.NoBody))
	v := load(t, served.Body.Bytes())
	_, faults := v.ValidateDocument()
	tell(t, "/openapi.json", faults)
	const fact = `{"specversion":"1.0","id":"1","source":"/s","type":"test.thing.told.v1","data":{"n":1}}`
	var operation string
	for _, one := range []struct {
		what, body string // method, path and headers
		status     int
	}{
		{"POST /v1/things", `{"n":1}`, 202},
		{"POST /v1/things", `{"n":"1"}`, 422},
		{"POST /v1/things", `{"n":1`, 400},
		{"POST /v1/things|Content-Type: text/plain", `{"n":1}`, 415},
		{"POST /v1/things|X-Api-Key: bad", `{"n":1}`, 401},
		{"POST /v1/things|X-Api-Key: poor", `{"n":1}`, 403},
		{"POST /v1/things|X-Api-Key: down", `{"n":1}`, 503},
		{"PUT /v1/things", `{"n":1}`, 400},
		{"PUT /v1/things|Idempotency-Key: k", `{"n":1}`, 202},
		{"POST /v1/commands/test.thing.begin.v1", `{"n":1}`, 202},
		{"POST /v1/commands/test.thing.none.v1", `{"n":1}`, 404},
		{"POST /v1/facts|Content-Type: application/cloudevents+json", fact, 202},
		{"POST /v1/facts|Content-Type: application/cloudevents-batch+json", "[" + fact + "]", 202},
		{"POST /v1/facts|Content-Type: application/cloudevents+json", `{}`, 400},
		{"POST /v1/things/{operation}/decision", `{"n":1}`, 202},
		{"POST /v1/things/x/decision", `{"n":1}`, 404},
		{"GET /v1/down/1", "", 502},
		{"GET /v1/operations/{operation}", "", 200},
		{"GET /v1/operations/x", "", 404},
		{"DELETE /v1/operations/{operation}", "", 202},
		{"GET /v1/operations", "", 200},
		{"GET /v1/operations?limit=0", "", 400},
		{"GET /v1/operations/{operation}/events|Accept: text/html", "", 406},
	} {
		parts := strings.Split(strings.ReplaceAll(one.what, "{operation}", operation), "|")
		method, path, _ := strings.Cut(parts[0], " ")
		ask := func() *http.Request {
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(one.body))
			r.Header.Set("X-Api-Key", "good")
			if one.body != "" {
				r.Header.Set("Content-Type", "application/json")
			}
			for _, header := range parts[1:] {
				name, value, _ := strings.Cut(header, ": ")
				r.Header.Set(name, value)
			}
			return r
		}
		w := httptest.NewRecorder()
		g.ServeHTTP(w, ask())
		if w.Code != one.status {
			t.Errorf("%s is answered %d %s, want %d", one.what, w.Code, w.Body, one.status)
			continue
		}
		if location := w.Header().Get("Location"); operation == "" {
			operation = strings.TrimPrefix(location, "/v1/operations/")
		}
		response := w.Result()
		response.Body = io.NopCloser(bytes.NewReader(w.Body.Bytes()))
		_, faults := v.ValidateHttpResponse(ask(), response)
		tell(t, one.what, faults)
	}
}

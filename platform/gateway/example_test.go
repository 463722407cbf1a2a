package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
)

// A gateway with one route. In a program the publisher is a broker.Committer,
// the lookup is the broker's, and the operations are the saga reader.
func Example() {
	table, err := gateway.ParseTable("routes.yaml", []byte(`
version: 1
routes:
  - id: send-letter
    kind: command
    match: POST /v1/letters
    command: post.letter.send.v1
    outcome:
      completed: {status: 201, location: "/v1/letters/{id}"}
      rejected: {unknown_address: 422}
`), gateway.Contracts{Commands: []gateway.Command{{
		Type:  "post.letter.send.v1",
		Topic: "post.letter.commands",
		Saga:  true,
		Schema: []byte(`{
			"type": "object", "additionalProperties": false, "required": ["to"],
			"properties": {"to": {"type": "string", "minLength": 1}}
		}`),
	}}}, os.LookupEnv)
	if err != nil {
		fmt.Println(err)
		return
	}

	var store memory
	g, err := gateway.New(gateway.Config{Secret: []byte("at least sixteen bytes")}, table,
		gateway.Deps{Publisher: &store, Operations: &store, Lookup: store.Lookup})
	if err != nil {
		fmt.Println(err)
		return
	}

	for _, body := range []string{`{"to":"Ada"}`, `{"to":"","from":"Bob"}`} {
		r := httptest.NewRequest(http.MethodPost, "/v1/letters", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", "letter-1")
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		fmt.Println(w.Code, http.StatusText(w.Code))
		fmt.Print(w.Body)
	}
	// Output:
	// 202 Accepted
	// {"id":"b25ad01a-34a2-8401-b1a0-5c035e2f42ab","status":"accepted","links":{"self":"/v1/operations/b25ad01a-34a2-8401-b1a0-5c035e2f42ab"}}
	// 422 Unprocessable Entity
	// {"type":"urn:countermand:problem:invalid_request","title":"The request is not valid","status":422,"detail":"Nothing was started: the body breaks its schema in 2 places.","instance":"/v1/letters","code":"invalid_request","retriable":false,"errors":[{"pointer":"/from","detail":"unknown field"},{"pointer":"/to","detail":"must have at least 1 character"}]}
}

// memory stands in for broker and engine.
type memory struct{ stored []broker.Message }

func (m *memory) Publish(_ context.Context, message broker.Message) (broker.Receipt, error) {
	m.stored = append(m.stored, message)
	return broker.Receipt{}, nil
}

func (m *memory) PublishTogether(_ context.Context, messages []broker.Message) []broker.Receipt {
	m.stored = append(m.stored, messages...)
	return make([]broker.Receipt, len(messages))
}

func (m *memory) Lookup(context.Context, events.Topic, int, uint64) (broker.Delivery, error) {
	return broker.Delivery{}, broker.ErrNotFound
}

func (m *memory) Get(context.Context, string) (gateway.Operation, error) {
	return gateway.Operation{}, gateway.ErrNotFound
}

func (m *memory) Changed(context.Context, []gateway.Seen) ([]gateway.Operation, error) {
	return nil, nil
}

func (m *memory) List(context.Context, gateway.OperationFilter) (gateway.OperationPage, error) {
	return gateway.OperationPage{}, nil
}

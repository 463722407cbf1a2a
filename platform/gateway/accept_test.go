package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
)

func TestAccept(t *testing.T) {
	t.Parallel()

	t.Run("a command is stored before the 202", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		w := b.order("Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Tracestate: k=v")
		wantStatus(t, w, http.StatusAccepted)
		got := decode[accepted](t, w)
		self := "/v1/operations/" + got.ID
		if got.Status != "accepted" || got.Links.Self != self {
			t.Errorf("body %s", w.Body)
		}
		wantHeader(t, w, "Location", self)
		wantHeader(t, w, "Retry-After", "1")
		wantHeader(t, w, "Link", "<"+self+`>; rel="status", <`+self+`/events>; rel="alternate"; type="text/event-stream"`)
		wantHeader(t, w, "Cache-Control", "no-store")
		wantHeader(t, w, "Vary", "Prefer")
		wantHeader(t, w, "Content-Type", "application/json")

		stored := b.broker.messages()
		if len(stored) != 1 {
			t.Fatalf("%d messages", len(stored))
		}
		m, e := stored[0], stored[0].Event
		if m.PublishID != got.ID || m.Topic != "shop.checkout.commands" {
			t.Errorf("message %+v", m)
		}
		if e.ID != got.ID || e.Type != "shop.checkout.request.v1" || e.Source != "/gateway" || e.Subject != got.ID ||
			e.CorrelationID != got.ID || e.PartitionKey != got.ID || e.DataContentType != "application/json" || e.Time.IsZero() {
			t.Errorf("event %+v", e)
		}
		if string(e.Data) != order {
			t.Errorf("data %q is not the body as it came", e.Data)
		}
		if e.TraceParent != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" || e.TraceState != "k=v" {
			t.Errorf("trace context %q %q", e.TraceParent, e.TraceState)
		}
		if n := len(e.Extension("fingerprint")); n != 32 {
			t.Errorf("fingerprint has %d characters", n)
		}
		if err := e.Validate(); err != nil {
			t.Error(err)
		}
	})

	t.Run("the bytes of the body are passed on as they came", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		body := "  " + strings.Replace(order, `"ada"`, "\"\\u0061d\\u0061 \u00e9\"", 1) + "\r\n"
		wantStatus(t, b.do(http.MethodPost, "/v1/orders", body, "Content-Type: application/vnd.shop+json; charset=utf-8"), http.StatusAccepted)
		if got := string(b.broker.messages()[0].Event.Data); got != body {
			t.Errorf("data %q", got)
		}
	})

	t.Run("any command that starts a saga can be sent by type", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		w := b.do(http.MethodPost, "/v1/commands/shop.checkout.request.v1", order)
		wantStatus(t, w, http.StatusAccepted)
		if got := b.broker.messages()[0].Event.ID; got != decode[accepted](t, w).ID {
			t.Errorf("event %s", got)
		}
	})

	t.Run("no other command can", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		for _, commandType := range []string{"shop.inventory.release.v1", "shop.payment.capture.v1", "shop.nothing.do.v1", "x"} {
			wantProblem(t, b.do(http.MethodPost, "/v1/commands/"+commandType, `{}`), http.StatusNotFound, "unknown_command")
		}
		if n := len(b.broker.messages()); n != 0 {
			t.Errorf("%d messages", n)
		}
	})

	t.Run("every operation without a key is a new one", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		first, second := decode[accepted](t, b.order()), decode[accepted](t, b.order())
		if first.ID == second.ID || len(b.broker.messages()) != 2 {
			t.Errorf("ids %s and %s", first.ID, second.ID)
		}
	})
}

func TestRefusedCommands(t *testing.T) {
	t.Parallel()
	with := func(old, fresh string) string { return strings.Replace(order, old, fresh, 1) }
	item := `{"sku":"TEA-001","quantity":2}`
	for name, row := range map[string]struct {
		body    string
		headers []string
		status  int
		code    string
		errors  []gateway.Violation
	}{
		"truncated": {
			body: order[:60], status: 400, code: "malformed_json",
			errors: []gateway.Violation{{Pointer: "/items/0", Detail: "the document ends too early"}},
		},
		"empty":         {body: " ", status: 400, code: "malformed_json", errors: []gateway.Violation{{Detail: "the body is empty"}}},
		"not JSON":      {body: "hello", status: 400, code: "malformed_json"},
		"trailing data": {body: order + `{}`, status: 400, code: "malformed_json", errors: []gateway.Violation{{Detail: "there is more after the JSON document"}}},
		"trailing junk": {body: order + `}`, status: 400, code: "malformed_json", errors: []gateway.Violation{{Detail: "there is more after the JSON document"}}},
		"duplicate field": {
			body: with(`"quantity":2`, `"quantity":2,"quantity":3`), status: 400, code: "malformed_json",
			errors: []gateway.Violation{{Pointer: "/items/0/quantity", Detail: `the field "quantity" comes twice`}},
		},
		"duplicate field by escape": {
			body: with(`"quantity":2`, `"quantity":2,"\u0071uantity":3`), status: 400, code: "malformed_json",
			errors: []gateway.Violation{{Pointer: "/items/0/quantity", Detail: `the field "quantity" comes twice`}},
		},
		"invalid UTF-8": {
			body: with(`ada`, "a\xffa"), status: 400, code: "malformed_json",
			errors: []gateway.Violation{{Pointer: "/customer", Detail: "invalid UTF-8"}},
		},
		"lone surrogate": {body: with(`ada`, `\ud800`), status: 400, code: "malformed_json"},
		"NUL": {
			body: with(`ada`, `a\u0000`), status: 400, code: "malformed_json",
			errors: []gateway.Violation{{Pointer: "/customer", Detail: "the character U+0000 is not accepted"}},
		},
		"number beyond 2^53": {
			body: with(`"quantity":2`, `"quantity":9007199254740993`), status: 400, code: "malformed_json",
			errors: []gateway.Violation{{Pointer: "/items/0/quantity", Detail: "the number is beyond 2^53, where readers round it; send it as a string"}},
		},
		"number of 400 digits": {body: with(`"quantity":2`, `"quantity":`+strings.Repeat("9", 400)), status: 400, code: "malformed_json"},
		"huge exponent":        {body: with(`"quantity":2`, `"quantity":1e999999999`), status: 400, code: "malformed_json"},
		"deep nesting":         {body: with(`"ada"`, strings.Repeat("[", 64)+strings.Repeat("]", 64)), status: 400, code: "malformed_json"},

		"unknown field": {
			body: with(`"quantity":2`, `"quantity":2,"colour":"red"`), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/items/0/colour", Detail: "unknown field"}},
		},
		"field in another case": {
			body: with(`"customer"`, `"Customer"`), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/Customer", Detail: "unknown field"}, {Pointer: "/customer", Detail: "is required"}},
		},
		"missing field": {
			body: with(`,"payment":{"token":"tok_ok"}`, ``), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/payment", Detail: "is required"}},
		},
		"wrong types": {
			body: with(`"ada"`, `7`), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/customer", Detail: "must be a string"}},
		},
		"null": {
			body: with(`{"token":"tok_ok"}`, `null`), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/payment", Detail: "must be an object"}},
		},
		"an array": {body: `[]`, status: 422, code: "invalid_request", errors: []gateway.Violation{{Detail: "must be an object"}}},
		"zero quantity": {
			body: with(`"quantity":2`, `"quantity":0`), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/items/0/quantity", Detail: "must be at least 1"}},
		},
		"negative quantity": {
			body: with(`"quantity":2`, `"quantity":-1`), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/items/0/quantity", Detail: "must be at least 1"}},
		},
		"too large a quantity": {
			body: with(`"quantity":2`, `"quantity":10001`), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/items/0/quantity", Detail: "must be at most 10000"}},
		},
		"half a quantity": {
			body: with(`"quantity":2`, `"quantity":1.5`), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/items/0/quantity", Detail: "must be an integer"}},
		},
		"an integer that Go cannot decode": {
			body: with(`"quantity":2`, `"quantity":2.0`), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/items/0/quantity", Detail: "must be an integer, written without fraction and exponent"}},
		},
		"no items": {
			body: with(item, ``), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/items", Detail: "must have at least 1 item"}},
		},
		"more than 100 items": {
			body: with(item, strings.Repeat(item+",", 100)+item), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/items", Detail: "must have at most 100 items"}},
		},
		"bad currency": {
			body: with(`"EUR"`, `"euro"`), status: 422, code: "invalid_request",
			errors: []gateway.Violation{{Pointer: "/currency", Detail: "must match the pattern ^[A-Z]{3}$"}},
		},
		"several faults": {
			body: with(item, `{"sku":"","quantity":0},{"quantity":"2"}`), status: 422, code: "invalid_request",
			errors: []gateway.Violation{
				{Pointer: "/items/0/quantity", Detail: "must be at least 1"},
				{Pointer: "/items/0/sku", Detail: "must have at least 1 character"},
				{Pointer: "/items/0/sku", Detail: "must match the pattern ^[A-Za-z0-9._-]+$"},
				{Pointer: "/items/1/quantity", Detail: "must be an integer"},
				{Pointer: "/items/1/sku", Detail: "is required"},
			},
		},

		"1 MB":              {body: strings.Repeat(" ", 1<<20), status: 413, code: "body_too_large"},
		"one byte too many": {body: order + strings.Repeat(" ", 256<<10+1-len(order)), status: 413, code: "body_too_large"},
		"not JSON by type":  {body: order, headers: []string{"Content-Type: text/plain"}, status: 415, code: "unsupported_media_type"},
		"a form":            {body: order, headers: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 415, code: "unsupported_media_type"},
		"almost JSON":       {body: order, headers: []string{"Content-Type: application/jsonx"}, status: 415, code: "unsupported_media_type"},
		"only a suffix":     {body: order, headers: []string{"Content-Type: application/+json"}, status: 415, code: "unsupported_media_type"},
		"no type":           {body: order, headers: []string{"Content-Type: "}, status: 415, code: "unsupported_media_type"},
		"encoded":           {body: order, headers: []string{"Content-Encoding: gzip"}, status: 415, code: "unsupported_encoding"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			for _, path := range []string{"/v1/orders", "/v1/commands/shop.checkout.request.v1"} {
				p := wantProblem(t, b.do(http.MethodPost, path, row.body, row.headers...), row.status, row.code)
				if row.errors != nil && fmt.Sprint(p.Errors) != fmt.Sprint(row.errors) {
					t.Errorf("errors %v, want %v", p.Errors, row.errors)
				}
				if p.Retriable || p.Instance != path {
					t.Errorf("problem %+v", p)
				}
			}
			if n := len(b.broker.messages()); n != 0 {
				t.Errorf("%d messages were published", n)
			}
		})
	}

	t.Run("a body at the limit is accepted", func(t *testing.T) {
		t.Parallel()
		wantStatus(t, setup(t).do(http.MethodPost, "/v1/orders", order+strings.Repeat(" ", 256<<10-len(order))), http.StatusAccepted)
	})

	t.Run("the list of violations is bounded", func(t *testing.T) {
		t.Parallel()
		body := with(item, strings.TrimSuffix(strings.Repeat(`{"sku":"A","quantity":0},`, 300), ","))
		p := wantProblem(t, setup(t).do(http.MethodPost, "/v1/orders", body), 422, "invalid_request")
		if len(p.Errors) != 100 || !strings.Contains(p.Detail, "301 places") {
			t.Errorf("%d errors, detail %q", len(p.Errors), p.Detail)
		}
	})
}

func TestPublishFailures(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		err       error
		status    int
		code      string
		retriable bool
		retry     string
		says      string
	}{
		"overloaded":  {broker.ErrOverloaded, 503, "overloaded", true, "1", "Nothing was started"},
		"unavailable": {fmt.Errorf("host 10.1.2.3: %w", broker.ErrUnavailable), 503, "broker_unavailable", true, "1", "is unknown"},
		"timeout":     {context.DeadlineExceeded, 503, "broker_unavailable", true, "1", "is unknown"},
		"rejected":    {fmt.Errorf("stream SHOP: %w", broker.ErrRejected), 500, "internal_error", false, "", "could not be handled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.broker.fail(row.err)
			w := b.order("Idempotency-Key: k1")
			p := wantProblem(t, w, row.status, row.code)
			if p.Retriable != row.retriable || !strings.Contains(p.Detail, row.says) {
				t.Errorf("problem %+v", p)
			}
			wantHeader(t, w, "Retry-After", row.retry)
			if strings.Contains(w.Body.String(), "10.1.2.3") || strings.Contains(w.Body.String(), "SHOP") {
				t.Errorf("the body leaks internals: %s", w.Body)
			}
		})
	}

	t.Run("a broker that does not answer is given up on", func(t *testing.T) {
		t.Parallel()
		var logged strings.Builder
		never := publisherFunc(func(ctx context.Context, _ broker.Message) (broker.Receipt, error) {
			<-ctx.Done()
			return broker.Receipt{}, ctx.Err()
		})
		b := setup(t, func(c *gateway.Config, d *gateway.Deps) {
			c.PublishTimeout, d.Publisher = 1, never
			c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		})
		p := wantProblem(t, b.order("Idempotency-Key: k1"), 503, "broker_unavailable")
		if !strings.Contains(p.Detail, "safe to repeat the request with the same Idempotency-Key") {
			t.Errorf("detail %q", p.Detail)
		}
		p = wantProblem(t, b.order(), 503, "broker_unavailable")
		if !strings.Contains(p.Detail, "may start it twice") {
			t.Errorf("detail %q", p.Detail)
		}
		if lines := strings.Count(logged.String(), "\n"); lines != 2 {
			t.Errorf("%s lines logged for two failures:\n%s", strconv.Itoa(lines), logged.String())
		}
	})

	t.Run("a client that leaves does not take its command back", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		ctx, leave := context.WithCancel(t.Context())
		b.broker.delay = leave
		b.doContext(ctx, http.MethodPost, "/v1/orders", order, "Prefer: wait=30")
		if n := len(b.broker.messages()); n != 1 {
			t.Errorf("%d messages", n)
		}
	})
}

type publisherFunc func(context.Context, broker.Message) (broker.Receipt, error)

func (f publisherFunc) Publish(ctx context.Context, m broker.Message) (broker.Receipt, error) {
	return f(ctx, m)
}

func (f publisherFunc) PublishTogether(ctx context.Context, messages []broker.Message) []broker.Receipt {
	receipts := make([]broker.Receipt, len(messages))
	for i, m := range messages {
		receipts[i], receipts[i].Err = f(ctx, m)
	}
	return receipts
}

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

// refusal is a request that must not be accepted.
type refusal struct {
	body    string
	headers []string // instead of Content-Type: application/json
	status  int
	code    string
	pointer string // of the field at fault; "-" when there is none to name
	why     string // what the problem says of it
}

func refusals() map[string]refusal {
	const (
		unprocessable = http.StatusUnprocessableEntity
		bad           = http.StatusBadRequest
		pay           = `,"payment":{"token":"tok_ok"}}`
		head          = `{"customer":"ada","currency":"EUR","items":`
	)
	valid := product.NewCheckout("ada", "TEA-001", 1, "tok_ok").Body()
	item := func(quantity string) string { return head + `[{"sku":"TEA-001","quantity":` + quantity + `}]` + pay }
	many := strings.TrimSuffix(strings.Repeat(`{"sku":"TEA-001","quantity":1},`, 101), ",")
	all := map[string]refusal{
		"no body":            {body: "", status: bad, code: "malformed_json", pointer: "", why: "empty"},
		"not JSON":           {body: "order=tea", status: bad, code: "malformed_json", pointer: "", why: "at byte"},
		"JSON that is cut":   {body: valid[:len(valid)-5], status: bad, code: "malformed_json", pointer: "/payment/token", why: "ends too early"},
		"more after it":      {body: valid + "{}", status: bad, code: "malformed_json", pointer: "", why: "more after"},
		"a trailing comma":   {body: head + `[{"sku":"TEA-001","quantity":1},]` + pay, status: bad, code: "malformed_json", pointer: "/items", why: ""},
		"a comment":          {body: "/* tea */" + valid, status: bad, code: "malformed_json", pointer: "", why: ""},
		"invalid UTF-8":      {body: strings.Replace(valid, "ada", "a\xffa", 1), status: bad, code: "malformed_json", pointer: "/customer", why: "UTF-8"},
		"a NUL in a string":  {body: strings.Replace(valid, "ada", `a\u0000a`, 1), status: bad, code: "malformed_json", pointer: "/customer", why: "U+0000"},
		"nested too deep":    {body: strings.Repeat("[", 65) + strings.Repeat("]", 65), status: bad, code: "malformed_json", pointer: "-", why: "deeper"},
		"a number over 2^53": {body: item("9007199254740993"), status: bad, code: "malformed_json", pointer: "/items/0/quantity", why: "2^53"},

		"a field twice":           {body: strings.Replace(valid, `{"customer":"ada"`, `{"customer":"ada","customer":"eve"`, 1), status: bad, code: "malformed_json", pointer: "/customer", why: "twice"},
		"a nested field twice":    {body: head + `[{"sku":"TEA-001","quantity":1,"quantity":2}]` + pay, status: bad, code: "malformed_json", pointer: "/items/0/quantity", why: "twice"},
		"an unknown field":        {body: strings.Replace(valid, `{"customer"`, `{"discount":100,"customer"`, 1), status: unprocessable, code: "invalid_request", pointer: "/discount", why: "unknown field"},
		"an unknown nested field": {body: head + `[{"sku":"TEA-001","quantity":1,"price":1}]` + pay, status: unprocessable, code: "invalid_request", pointer: "/items/0/price", why: "unknown field"},
		"a field in other case":   {body: strings.Replace(valid, `"customer"`, `"Customer"`, 1), status: unprocessable, code: "invalid_request", pointer: "/Customer", why: "unknown field"},
		"a missing field":         {body: `{"customer":"ada","items":[{"sku":"TEA-001","quantity":1}]` + pay, status: unprocessable, code: "invalid_request", pointer: "/currency", why: "required"},
		"no payment":              {body: head + `[{"sku":"TEA-001","quantity":1}]}`, status: unprocessable, code: "invalid_request", pointer: "/payment", why: "required"},

		"an array":              {body: "[" + valid + "]", status: unprocessable, code: "invalid_request", pointer: "", why: "must be an object"},
		"null":                  {body: "null", status: unprocessable, code: "invalid_request", pointer: "", why: "must be an object"},
		"a customer of null":    {body: strings.Replace(valid, `"ada"`, `null`, 1), status: unprocessable, code: "invalid_request", pointer: "/customer", why: "must be a string"},
		"a number for a text":   {body: strings.Replace(valid, `"ada"`, `7`, 1), status: unprocessable, code: "invalid_request", pointer: "/customer", why: "must be a string"},
		"a text for a number":   {body: item(`"1"`), status: unprocessable, code: "invalid_request", pointer: "/items/0/quantity", why: "must be an integer"},
		"an object for items":   {body: head + `{"sku":"TEA-001","quantity":1}` + pay, status: unprocessable, code: "invalid_request", pointer: "/items", why: "must be an array"},
		"a quantity of 1.5":     {body: item("1.5"), status: unprocessable, code: "invalid_request", pointer: "/items/0/quantity", why: "must be an integer"},
		"a quantity of 1.0":     {body: item("1.0"), status: unprocessable, code: "invalid_request", pointer: "/items/0/quantity", why: "must be an integer"},
		"a quantity of 1e1":     {body: item("1e1"), status: unprocessable, code: "invalid_request", pointer: "/items/0/quantity", why: "must be an integer"},
		"a quantity of 0":       {body: item("0"), status: unprocessable, code: "invalid_request", pointer: "/items/0/quantity", why: "at least 1"},
		"a negative quantity":   {body: item("-1"), status: unprocessable, code: "invalid_request", pointer: "/items/0/quantity", why: "at least 1"},
		"too high a quantity":   {body: item("10001"), status: unprocessable, code: "invalid_request", pointer: "/items/0/quantity", why: "at most 10000"},
		"no items":              {body: head + `[]` + pay, status: unprocessable, code: "invalid_request", pointer: "/items", why: "at least 1 item"},
		"101 items":             {body: head + `[` + many + `]` + pay, status: unprocessable, code: "invalid_request", pointer: "/items", why: "at most 100 items"},
		"an empty customer":     {body: strings.Replace(valid, "ada", "", 1), status: unprocessable, code: "invalid_request", pointer: "/customer", why: "at least 1 character"},
		"too long a customer":   {body: strings.Replace(valid, "ada", strings.Repeat("a", 101), 1), status: unprocessable, code: "invalid_request", pointer: "/customer", why: "at most 100 characters"},
		"a currency in letters": {body: strings.Replace(valid, "EUR", "euros", 1), status: unprocessable, code: "invalid_request", pointer: "/currency", why: "pattern"},
		"a sku with a slash":    {body: strings.Replace(valid, "TEA-001", "TEA/001", 1), status: unprocessable, code: "invalid_request", pointer: "/items/0/sku", why: "pattern"},

		"1 MB":                {body: strings.Replace(valid, "ada", strings.Repeat("a", 1<<20), 1), status: http.StatusRequestEntityTooLarge, code: "body_too_large", pointer: "-", why: "bytes"},
		"a form":              {body: valid, headers: []string{"Content-Type: application/x-www-form-urlencoded"}, status: http.StatusUnsupportedMediaType, code: "unsupported_media_type", pointer: "-", why: "application/json"},
		"text":                {body: valid, headers: []string{"Content-Type: text/plain"}, status: http.StatusUnsupportedMediaType, code: "unsupported_media_type", pointer: "-", why: "application/json"},
		"no content type":     {body: valid, headers: []string{"Accept: */*"}, status: http.StatusUnsupportedMediaType, code: "unsupported_media_type", pointer: "-", why: "application/json"},
		"a compressed body":   {body: valid, headers: []string{"Content-Type: application/json", "Content-Encoding: gzip"}, status: http.StatusUnsupportedMediaType, code: "unsupported_encoding", pointer: "-", why: "Content-Encoding"},
		"two content types":   {body: valid, headers: []string{"Content-Type: application/json", "Content-Type: text/plain"}, status: http.StatusUnsupportedMediaType, code: "unsupported_media_type", pointer: "-", why: ""},
		"an unsafe token":     {body: strings.Replace(valid, "tok_ok", "tok ok", 1), status: unprocessable, code: "invalid_request", pointer: "/payment/token", why: "pattern"},
		"a payment of null":   {body: strings.Replace(valid, `{"token":"tok_ok"}`, "null", 1), status: unprocessable, code: "invalid_request", pointer: "/payment", why: "must be an object"},
		"an item of null":     {body: head + `[null]` + pay, status: unprocessable, code: "invalid_request", pointer: "/items/0", why: "must be an object"},
		"a very large number": {body: item("1" + strings.Repeat("0", 400)), status: bad, code: "malformed_json", pointer: "/items/0/quantity", why: "2^53"},
	}
	return all
}

// TestARequestThatIsNotValidStartsNothing runs alone, since it counts sagas.
func TestARequestThatIsNotValidStartsNothing(t *testing.T) {
	before := sagaCount(t)
	for name, test := range refusals() {
		t.Run(name, func(t *testing.T) {
			headers := test.headers
			if headers == nil {
				headers = []string{"Content-Type: application/json"}
			}
			answer := request(t, http.MethodPost, "/v1/orders", test.body, append(headers, "Prefer: wait=5")...)
			p := problem(t, answer, test.status, test.code)
			told := []string{p.Detail}
			named := test.pointer == "-"
			for _, fault := range p.Errors {
				told = append(told, fault.Detail)
				named = named || fault.Pointer == test.pointer && fault.Detail != ""
			}
			if !named {
				t.Errorf("errors are %+v, want one at %q", p.Errors, test.pointer)
			}
			if !strings.Contains(strings.Join(told, " "), test.why) {
				t.Errorf("it says %q, want a word of %q", told, test.why)
			}
			if p.Retriable {
				t.Error("it is said to be retriable")
			}
		})
	}
	// Commands are taken in order, so when this one has ended, one that had been
	// started by a refused request would be there too.
	finished(t, accepted(t, place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_ok"))), "completed")
	if after := sagaCount(t); after != before+1 {
		t.Errorf("there were %d sagas and are %d, want one more, of the valid order", before, after)
	}
}

func TestEveryFaultIsTold(t *testing.T) {
	t.Parallel()
	answer := post(t, `{"customer":"","currency":"EUR","items":[{"sku":"TEA-001","quantity":0},{"sku":"","quantity":"2"}],"colour":"red"}`)
	p := problem(t, answer, http.StatusUnprocessableEntity, "invalid_request")
	told := make(map[string]bool)
	for _, fault := range p.Errors {
		told[fault.Pointer] = true
	}
	for _, pointer := range []string{"/customer", "/items/0/quantity", "/items/1/sku", "/items/1/quantity", "/colour", "/payment"} {
		if !told[pointer] {
			t.Errorf("errors are %+v, want one at %s", p.Errors, pointer)
		}
	}
}

func TestAnOrderAtTheLimitsIsAccepted(t *testing.T) {
	t.Parallel()
	order := product.Checkout{Customer: strings.Repeat("é", 100), Currency: "EUR", Payment: product.Payment{Token: "tok_declined"}}
	for i := range 100 {
		order.Items = append(order.Items, product.Item{SKU: fmt.Sprintf("NONE-%03d", i), Quantity: 10000})
	}
	answer := place(t, order, "Prefer: wait=10")
	problem(t, answer, http.StatusUnprocessableEntity, "unknown_sku")
}

func TestJSONHasManyContentTypes(t *testing.T) {
	t.Parallel()
	body := product.NewCheckout("ada", "TEA-001", 1, "tok_ok").Body()
	for _, contentType := range []string{"application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.shop+json"} {
		answer := request(t, http.MethodPost, "/v1/orders", body, "Content-Type: "+contentType)
		finished(t, accepted(t, answer), "completed")
	}
}

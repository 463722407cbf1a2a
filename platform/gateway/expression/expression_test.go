package expression_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countermand/countermand/platform/gateway/expression"
)

var scope = expression.NewScope(
	expression.Text("request.method"), expression.Texts("request.headers"), expression.TextList("identity.scopes"), expression.Any("body"),
)

func input(body any) expression.Input {
	return func(name string) (any, bool) {
		switch name {
		case "request.method":
			return "POST", true
		case "request.headers":
			return map[string]string{"x-plan": "gold"}, true
		case "identity.scopes":
			return []string{"orders"}, true
		case "body":
			return body, true
		}
		return nil, false
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	body := map[string]any{"total": int64(900), "rate": 1.5, "items": []any{map[string]any{"sku": "TEA-001"}}, "note": nil}
	for text, want := range map[string]bool{
		`request.method == "POST"`:                                    true,
		`body.total < 1000`:                                           true,
		`body.total < 1000.5 && body.rate > 1`:                        true,
		`body.items.all(i, i.sku.startsWith("TEA-"))`:                 true,
		`has(body.flag) && body.flag == "x"`:                          false,
		`"orders" in identity.scopes`:                                 true,
		`request.headers["x-plan"] == "gold"`:                         true,
		`"x-none" in request.headers`:                                 false,
		`body.items[0].sku.lowerAscii() == "tea-001"`:                 true,
		`body.note == null && body.items.size() == 1`:                 true,
		`body.items[0].sku.matches("^[A-Z]+-[0-9]+$") ? true : false`: true,
	} {
		p, err := scope.Condition(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := p.Holds(input(body)); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestWhatCannotBeCompiledSaysWhere(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`body.total <`:                     "column 13: ",
		`boody.total < 1`:                  "column 1: undeclared reference to 'boody'",
		`request.method`:                   "it gives string, want bool",
		`request.method + 1 == "x"`:        "column 16: found no matching overload",
		`request.method.matches("(")`:      "column 24: invalid matches argument",
		strings.Repeat("!", 5000) + "true": "expression code point size exceeds limit",
		strings.Repeat("(", 100) + "true":  "column",
	} {
		if _, err := scope.Condition(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %s", text, err, want)
		}
	}
}

func TestAFailedRunIsAnError(t *testing.T) {
	t.Parallel()
	// A round over the text costs as much as thousands of numbers, and takes no longer
	// than one.
	many := make([]any, 50)
	for i := range many {
		many[i] = strings.Repeat("x", 5000)
	}
	for text, want := range map[string]string{
		`body.nothing == 1`:                          "no such key",
		`body.many.all(a, body.many.all(b, a == b))`: "cost limit exceeded",
		`body.word`:                 "want true or false",
		`body.many.size() / 0 == 1`: "by zero",
	} {
		p, err := scope.Condition(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if holds, err := p.Holds(input(map[string]any{"many": many, "word": "x"})); holds || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want an error with %q", text, holds, err, want)
		}
	}
}

func TestDocumentsAreJSON(t *testing.T) {
	t.Parallel()
	p, err := scope.Document(`{"order": body.id, "lines": body.items.map(i, i.sku), "total": body.total, "paid": true, "half": 0.5}`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Make(input(map[string]any{"id": "o1", "total": int64(900), "items": []any{map[string]any{"sku": "TEA"}}}))
	want := map[string]any{"order": "o1", "lines": []any{"TEA"}, "total": 900.0, "paid": true, "half": 0.5}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if p, err = scope.Document(`request.method == "POST" ? b"x" : b"y"`); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Make(input(nil)); err != nil || got != "eA==" {
		t.Errorf("bytes: %v, %v", got, err)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	p, err := scope.Words(`body.number + "-" + request.method`)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.Say(input(map[string]any{"number": "7"})); err != nil || got != "7-POST" {
		t.Errorf("%q, %v", got, err)
	}
	if p, err = scope.Words(`body.number`); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Say(input(map[string]any{"number": int64(7)})); err == nil || !strings.Contains(err.Error(), "it gave int, want a text") {
		t.Errorf("error %v", err)
	}
}

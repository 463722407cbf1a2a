package route_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/ai/upstream"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
)

// Prompts and sagas do not get round what keeps content in.
func TestCallsFromInsidePassGuardsAndRedaction(t *testing.T) {
	keeper := budget.Unkept(prices(t))
	p := start(t, guarded+`
redact: {kinds: [email]}
guards:
  request: [{allow: "tenant == 'acme' && client == 'app' && !text.contains('bomb') && !text.contains('@')", message: not that}]
  response: [{allow: "!text.contains('internal')", message: not said}]
`, keeper)
	ask := func(text string) (said, refused string, attempts int) {
		t.Helper()
		object, err := body.Parse([]byte(`{"model":"sim-echo","messages":[{"role":"user","content":"` + text + `"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		caller := ai.Caller{Tenant: "acme", App: "app"}
		plan, err := p.handler.Inside(route.Call{Request: upstream.Request{Format: wire.Chat, Model: "sim-echo", Tenant: caller.Tenant, Body: object}, Caller: caller})
		if err != nil {
			t.Fatal(err)
		}
		reservation, err := keeper.Reserve(t.Context(), budget.Call{Caller: caller, Targets: plan.Targets, Most: plan.Most})
		if err != nil {
			t.Fatal(err)
		}
		defer reservation.Close()
		answer, err := plan.Do(t.Context(), reservation)
		if told, ok := errors.AsType[*wire.Error](err); ok {
			return "", told.Code + " " + told.Message, reservation.Attempts()
		}
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Close()
		return gjson.GetBytes(answer.Body, "choices.0.message.content").Str, "", reservation.Attempts()
	}
	if said, refused, _ := ask("to ada@example.com"); said != "to [email]" {
		t.Errorf("it says %q, %s", said, refused)
	}
	if _, refused, attempts := ask("a bomb"); !strings.Contains(refused, "content_refused not that") || attempts != 0 {
		t.Errorf("%s after %d attempts", refused, attempts)
	}
	if _, refused, attempts := ask("internal"); !strings.Contains(refused, "content_refused not said") || attempts != 1 {
		t.Errorf("%s after %d attempts", refused, attempts)
	}
}

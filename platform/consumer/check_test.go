package consumer_test

import (
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/schema"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/payload"
)

// With a check, a payload that breaks its contract is set aside before its handler
// sees it, and what is around it goes on.
func TestCheckedPayloads(t *testing.T) {
	t.Parallel()
	type strict struct {
		Name string `jsonschema:"maxLength=4"`
	}
	schemas, err := schema.Of(events.NewCommand[strict, ticket](reserve.Type()))
	if err != nil {
		t.Fatal(err)
	}
	validator, err := payload.New(schemas...)
	if err != nil {
		t.Fatal(err)
	}
	for how, check := range map[string]func(*events.Event) error{"with": validator.Check, "without": nil} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			r.commands = r.processorWith(r.pool, consumer.CommandsConfig{AttemptsMax: 3, Wake: r.wake, Check: check})
			r.feed()
			long, undone := command(t, reserve, 0, "too long"), command(t, reserve, 0, "behind")
			undone.Data = []byte(`{"Name":"ok","Added":"by a newer sender"}`)
			r.send(command(t, reserve, 0, "a"), long, undone)
			if check == nil {
				r.wantReply(long, "")
				r.wantReply(undone, "")
				r.wantEffects("reserve a", "reserve too long", "reserve ok")
				return
			}
			r.wantReply(undone, "")
			got := r.letters(1)[0]
			if got.Attempts != 1 || !strings.Contains(got.Error, "payload breaks its contract test.stock.reserve.v1: /Name maxLength") {
				t.Errorf("dead letter %+v", got)
			}
			r.wantEffects("reserve a", "reserve ok")
			r.wantCalls("reserve too long", 0)
		})
	}
}

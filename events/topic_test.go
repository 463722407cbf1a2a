package events_test

import (
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
)

func TestTopic(t *testing.T) {
	t.Run("it follows from the type", func(t *testing.T) {
		for name, want := range map[string][2]events.Topic{
			"shop.inventory.reserve.v1":     {"shop.inventory.commands", "shop.inventory.events"},
			"shop.reserve.v12":              {"shop.commands", "shop.events"},
			"shop.inventory.eu.reserve.v1":  {"shop.inventory.eu.commands", "shop.inventory.eu.events"},
			"a.b-c.d_e.f.v9999":             {"a.b-c.d_e.commands", "a.b-c.d_e.events"},
			"shop.a.b.c.d.e.f.v1":           {"shop.a.b.c.d.e.commands", "shop.a.b.c.d.e.events"},
			"sh0p.inventory.reserve-all.v1": {"sh0p.inventory.commands", "sh0p.inventory.events"},
		} {
			if err := events.ValidateType(name); err != nil {
				t.Error(err)
			}
			if got := [2]events.Topic{events.CommandTopic(name), events.FactTopic(name)}; got != want {
				t.Errorf("%s goes to %v, want %v", name, got, want)
			}
			for _, topic := range want {
				if err := topic.Validate(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	t.Run("the outcome's type follows from the start command's", func(t *testing.T) {
		if got := events.OutcomeType("shop.checkout.request.v1", "completed"); got != "shop.checkout.completed.v1" || events.ValidateType(got) != nil {
			t.Errorf("got %q", got)
		}
	})
	t.Run("a domain is the first segment", func(t *testing.T) {
		for topic, want := range map[events.Topic]string{"shop.inventory.commands": "shop", "shop": "shop", "": ""} {
			if got := topic.Domain(); got != want {
				t.Errorf("domain of %q = %q, want %q", topic, got, want)
			}
		}
	})
	t.Run("what is no subject on some broker is refused", func(t *testing.T) {
		for _, topic := range []events.Topic{
			"", ".", "shop.", ".shop", "shop..x", "shop.*", "shop.>", "Shop", "shop x", "shop.é", "1shop", "shop/x", "$JS.API", "shop\n",
			"a.b.c.d.e.f.g.h", events.Topic("a." + strings.Repeat("x", 127)),
		} {
			if topic.Validate() == nil {
				t.Errorf("topic %q was let through", topic)
			}
		}
		for _, topic := range []events.Topic{events.Replies, events.Outcomes} {
			if err := topic.Validate(); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("a type without a verb or a version is refused", func(t *testing.T) {
		for _, name := range []string{"", "v1", "shop.v1", "shop.reserve", "shop.reserve.v01", "shop.reserve.v12345", "shop.reserve.v1.reply", "shop.Reserve.v1", "a.b.c.d.e.f.g.h.v1"} {
			if events.ValidateType(name) == nil {
				t.Errorf("type %q was let through", name)
			}
		}
		if topic := events.CommandTopic("nonsense"); topic.Validate() == nil {
			t.Errorf("a name that is no type has the topic %q", topic)
		}
	})
}

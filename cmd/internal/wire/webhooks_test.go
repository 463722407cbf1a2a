package wire

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
)

func TestWebhooksAreConfiguredByTheEnvironment(t *testing.T) {
	c, err := WebhooksFromEnvironment(false, nil)
	if err != nil || len(c.Keys) != 0 || c.Anonymous || c.Guard.PlainHTTP || c.Guard.AnyPort || c.Guard.Allow != nil {
		t.Errorf("by default: %+v, %v", c, err)
	}
	c, err = WebhooksFromEnvironment(true, []byte("the secret of a data folder"))
	if err != nil || len(c.Keys) != 1 || !c.Anonymous || !c.Guard.PlainHTTP || !c.Guard.AnyPort || len(c.Guard.Allow) != 2 {
		t.Errorf("in dev: %+v, %v", c, err)
	}
	t.Setenv("COUNTERMAND_WEBHOOK_KEY", "the current key of 16 bytes, the earlier key of 16 bytes")
	t.Setenv("COUNTERMAND_WEBHOOK_ALLOW", "10.1.0.0/16")
	t.Setenv("COUNTERMAND_WEBHOOK_PORTS", "443, 8443")
	t.Setenv("COUNTERMAND_PUBLIC_URL", "https://api.example.com/base")
	c, err = WebhooksFromEnvironment(false, nil)
	if err != nil || len(c.Keys) != 2 || c.Guard.Allow[0] != netip.MustParsePrefix("10.1.0.0/16") || len(c.Guard.Ports) != 2 || c.PublicURL == "" {
		t.Errorf("as told: %+v, %v", c, err)
	}
	for name, value := range map[string]string{
		"COUNTERMAND_WEBHOOK_KEY": "short", "COUNTERMAND_WEBHOOK_ALLOW": "10.1.0.0", "COUNTERMAND_WEBHOOK_DENY": "all",
		"COUNTERMAND_WEBHOOK_PORTS": "0", "COUNTERMAND_PUBLIC_URL": "api.example.com", "COUNTERMAND_WEBHOOK_HTTP": "yes", "COUNTERMAND_WEBHOOK_ANONYMOUS": "1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			if _, err := WebhooksFromEnvironment(false, nil); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		})
	}
}

func TestWebhooksNeedTheGatewaysOwnDatabase(t *testing.T) {
	config := Config{Webhooks: WebhookConfig{Keys: [][]byte{[]byte("a key of at least 16 bytes")}}}
	if _, err := newWebhooks(config, &Process{Logger: slog.New(slog.DiscardHandler)}, gatewayStore{}); err == nil || !strings.Contains(err.Error(), "COUNTERMAND_GATEWAY_DATABASE_URL") {
		t.Errorf("without one: %v", err)
	}
	if hooks, err := newWebhooks(Config{}, nil, gatewayStore{}); hooks != nil || err != nil {
		t.Errorf("without a key: %v, %v", hooks, err)
	}
}

func TestFactsAndOutcomesAreOffered(t *testing.T) {
	all, err := offers()
	if err != nil {
		t.Fatal(err)
	}
	topics := make(map[string]events.Topic)
	for _, offer := range all {
		if _, twice := topics[offer.Type]; twice {
			t.Errorf("%s is offered twice", offer.Type)
		}
		topics[offer.Type] = offer.Topic
	}
	if topics[shop.OrderPlaced.Type()] != shop.OrderPlaced.Topic() || topics["shop.checkout.completed.v1"] != events.Outcomes {
		t.Errorf("offered are %v", topics)
	}
	for _, inner := range []string{shop.ReserveStock.Type(), shop.ReviewDecided.Type(), events.CancelType, "shop.fulfilment.completed.v1"} {
		if _, ok := topics[inner]; ok {
			t.Errorf("%s is offered", inner)
		}
	}
}

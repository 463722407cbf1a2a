package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/egress"
	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/platform/webhook"
)

// WebhookConfig says whether and how the gateway delivers events to webhooks. It holds
// secrets.
type WebhookConfig struct {
	// Keys seal the secrets of subscriptions, the current one first; none: there are no
	// webhooks.
	Keys [][]byte
	// Guard says which sinks there may be.
	Guard egress.Guard
	// Origin names this system to sinks; PublicURL is where they reach the gateway.
	Origin, PublicURL string
	// Anonymous lets senders without an identity subscribe.
	Anonymous bool
}

// WebhooksFromEnvironment reads how the gateway delivers to webhooks. In dev they are on,
// sealed with the key that is given, may lead to loopback, and are everybody's.
func WebhooksFromEnvironment(dev bool, devKey []byte) (WebhookConfig, error) {
	v := variables{}
	loopback, ports, plain, anonymous := "", "", "false", "false"
	if dev {
		loopback, ports, plain, anonymous = "127.0.0.0/8,::1/128", "any", "true", "true"
	}
	c := WebhookConfig{
		Origin:    os.Getenv("COUNTERMAND_WEBHOOK_ORIGIN"),
		PublicURL: v.publicURL("COUNTERMAND_PUBLIC_URL"),
		Anonymous: v.oneOf("COUNTERMAND_WEBHOOK_ANONYMOUS", anonymous, other(anonymous)) == "true",
		Guard: egress.Guard{
			Allow: v.prefixes("COUNTERMAND_WEBHOOK_ALLOW", loopback), Deny: v.prefixes("COUNTERMAND_WEBHOOK_DENY", ""),
			PlainHTTP: v.oneOf("COUNTERMAND_WEBHOOK_HTTP", plain, other(plain)) == "true",
		},
	}
	c.Guard.Ports, c.Guard.AnyPort = v.ports("COUNTERMAND_WEBHOOK_PORTS", ports)
	for key := range strings.SplitSeq(v.optional("COUNTERMAND_WEBHOOK_KEY"), ",") {
		if key = strings.TrimSpace(key); key != "" {
			c.Keys = append(c.Keys, []byte(key))
		}
	}
	if c.Keys == nil && dev {
		c.Keys = [][]byte{devKey}
	}
	if len(c.Keys) > 0 {
		if _, err := webhook.NewVault(c.Keys...); err != nil {
			v.fail("COUNTERMAND_WEBHOOK_KEY: %w; try: openssl rand -hex 32", err)
		}
	}
	return c, errors.Join(v.errs...)
}

func other(truth string) string { return strconv.FormatBool(truth != "true") }

// publicURL reads where something is reached from outside; empty when that is not said.
func (v *variables) publicURL(name string) string {
	text := os.Getenv(name)
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" {
		v.fail("%s %q: want a URL such as https://api.example.com", name, text)
	}
	return text
}

// list reads comma-separated texts.
func list(name, fallback string) []string {
	text, given := os.LookupEnv(name)
	if !given {
		text = fallback
	}
	var all []string
	for one := range strings.SplitSeq(text, ",") {
		if one = strings.TrimSpace(one); one != "" {
			all = append(all, one)
		}
	}
	return all
}

func (v *variables) prefixes(name, fallback string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range list(name, fallback) {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			v.fail("%s %q: want networks such as 10.1.0.0/16, comma-separated", name, text)
		}
		all = append(all, p)
	}
	return all
}

// ports reads port numbers; anything stands for all of them.
func (v *variables) ports(name, fallback string) (ports []uint16, anything bool) {
	for _, text := range list(name, fallback) {
		if text == "any" {
			return nil, true
		}
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			v.fail("%s %q: want ports such as 443,8443, or any", name, text)
		}
		ports = append(ports, uint16(port))
	}
	return ports, false
}

// offers are what may be subscribed to: every fact but those that are signals to one
// saga, and how every saga ends.
func offers() ([]webhook.Offer, error) {
	var all []webhook.Offer
	sent, err := signals()
	if err != nil {
		return nil, err
	}
	for _, contract := range Contracts() {
		d := contract.Describe()
		isSignal := slices.ContainsFunc(sent, func(s gateway.Signal) bool { return s.Type == d.Type })
		if d.Kind == events.KindFact && !isSignal {
			all = append(all, webhook.Offer{Type: d.Type, Topic: d.Topic})
		}
	}
	starts, err := startTypes()
	if err != nil {
		return nil, err
	}
	for _, start := range starts {
		if internalStarts[start] {
			continue
		}
		for _, status := range []saga.Status{saga.Completed, saga.Compensated, saga.Stuck, saga.Abandoned} {
			all = append(all, webhook.Offer{Type: events.OutcomeType(start, string(status)), Topic: events.Outcomes})
		}
	}
	return all, nil
}

// newWebhooks makes the store of the webhooks; nil when there are none.
func newWebhooks(config Config, process *Process, store gatewayStore) (*webhook.Store, error) {
	c := config.Webhooks
	if len(c.Keys) == 0 {
		return nil, nil
	}
	if store.Pool == nil {
		return nil, errors.New("COUNTERMAND_WEBHOOK_KEY is set, but the gateway has no database of its own: set COUNTERMAND_GATEWAY_DATABASE_URL as well")
	}
	vault, err := webhook.NewVault(c.Keys...)
	if err != nil {
		return nil, fmt.Errorf("COUNTERMAND_WEBHOOK_KEY: %w", err)
	}
	offered, err := offers()
	if err != nil {
		return nil, err
	}
	return webhook.New(store.Pool, webhook.Config{
		Vault: vault, Guard: &c.Guard, Offers: offered, Origin: c.Origin, PublicURL: c.PublicURL,
		Logger: process.Logger, Metrics: process.Registry,
	})
}

// runWebhooks matches events and sends them.
func runWebhooks(l lifecycle, process *Process, b broker.Broker, store gatewayStore, hooks *webhook.Store) error {
	if hooks == nil {
		return nil
	}
	hooks.Register(process.Admin, admin.Protect)
	sender := webhook.NewSender(hooks)
	feed, err := consumer.NewFeed(store.Pool, b, webhook.NewMatcher(hooks), consumer.FeedConfig{
		Name: webhook.ConsumerName, Topics: hooks.Topics(), Logger: process.Logger, Metrics: process.Registry,
	})
	if err != nil {
		return err
	}
	l.run("webhook-sender", sender.Run)
	l.run("webhook-upkeep", hooks.RunUpkeep)
	l.run(webhook.ConsumerName, feed.Run)
	return nil
}

package webhook

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/egress"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of webhooks. The database has those of the consumer as
// well.
func Migrations() fs.FS { return migrations }

// Offer is a type of events that may be subscribed to.
type Offer struct {
	Type  string
	Topic events.Topic
}

// Config of the webhooks of one database. Vault, Guard and Offers are required; the zero
// value of every other field is its default.
type Config struct {
	// Vault seals what is secret.
	Vault *Vault
	// Guard says which sinks there may be.
	Guard *egress.Guard
	// Offers are what may be subscribed to.
	Offers []Offer
	// Origin names this system to sinks in WebHook-Request-Origin: a DNS name; the
	// host of PublicURL, or localhost, by default.
	Origin string
	// PublicURL is where the gateway is reached from outside, for sinks that grant
	// permission by calling back; empty: they cannot.
	PublicURL string

	// TenantMax and ClientMax bound the subscriptions of a tenant and of a client; 100
	// and 50.
	TenantMax, ClientMax int
	// Timeouts of a request; 5 s to connect, 5 s for TLS, 15 s for the header and
	// 20 s in all.
	Timeouts egress.Timeouts
	// InFlightMax bounds the requests of this process at once, of which one tenant
	// has a quarter; 512.
	InFlightMax int
	// RetryBase is how long a delivery rests after its first attempt; the rest triples
	// up to RetryMax; 5 s and 2 h.
	RetryBase, RetryMax time.Duration
	// RetryFor is for how long a delivery is tried before it becomes a dead letter;
	// 24 h.
	RetryFor time.Duration
	// RetryAfterMax caps what a sink may ask for by Retry-After; 1 h.
	RetryAfterMax time.Duration
	// RestBase is how long a sink is left alone after failing FailuresMax times in a row;
	// the rest doubles up to RestMax; 5 s, 5 times, 5 min.
	RestBase, RestMax time.Duration
	FailuresMax       int
	// AskFor is for how long a sink is asked for permission; 24 h.
	AskFor time.Duration
	// AskAgain is how often a sink that has agreed is asked again; 24 h.
	AskAgain time.Duration
	// KeepDelivered, KeepDead and KeepPaused are for how long deliveries are kept that
	// were made, that are dead letters, and that wait for a subscription to be resumed;
	// 3, 30 and 7 days.
	KeepDelivered, KeepDead, KeepPaused time.Duration
	// Poll is how often the database is asked what is due; every second.
	Poll    time.Duration
	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil: metrics are kept but not registered
}

func (c Config) withDefaults() Config {
	const day = 24 * time.Hour
	if u, err := url.Parse(c.PublicURL); err == nil {
		c.Origin = cmp.Or(c.Origin, u.Hostname())
	}
	c.Origin = cmp.Or(c.Origin, "localhost")
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.Timeouts.Connect, 5 * time.Second},
		{&c.Timeouts.TLS, 5 * time.Second},
		{&c.Timeouts.Header, 15 * time.Second},
		{&c.Timeouts.Total, 20 * time.Second},
		{&c.RetryBase, 5 * time.Second},
		{&c.RetryMax, 2 * time.Hour},
		{&c.RetryFor, day},
		{&c.RetryAfterMax, time.Hour},
		{&c.RestBase, 5 * time.Second},
		{&c.RestMax, 5 * time.Minute},
		{&c.AskFor, day},
		{&c.AskAgain, day},
		{&c.KeepDelivered, 3 * day},
		{&c.KeepDead, 30 * day},
		{&c.KeepPaused, 7 * day},
		{&c.Poll, time.Second},
	} {
		*d.field = cmp.Or(*d.field, d.value)
	}
	c.TenantMax, c.ClientMax = cmp.Or(c.TenantMax, 100), cmp.Or(c.ClientMax, 50)
	c.InFlightMax, c.FailuresMax = cmp.Or(c.InFlightMax, 512), cmp.Or(c.FailuresMax, 5)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Store keeps subscriptions and deliveries. It is how subscribers and operators change
// them, and what a [Matcher] and a [Sender] work on. It is safe for concurrent use.
type Store struct {
	pool    *pgxpool.Pool
	config  Config
	offered map[string]bool
	metrics *metrics
	wake    atomic.Pointer[func()] // of this process's sender
}

// New returns a store on the database of pool, which has the tables of [Migrations].
func New(pool *pgxpool.Pool, config Config) (*Store, error) {
	if config.Vault == nil || config.Guard == nil || len(config.Offers) == 0 {
		return nil, errors.New("webhooks: a vault, a guard and at least one offer are required")
	}
	s := &Store{pool: pool, config: config.withDefaults(), offered: make(map[string]bool)}
	for _, offer := range config.Offers {
		s.offered[offer.Type] = true
	}
	s.metrics = newMetrics()
	if config.Metrics != nil {
		s.metrics.register(config.Metrics)
	}
	return s, nil
}

// Topics returns where the offered events are.
func (s *Store) Topics() []events.Topic {
	topics := make([]events.Topic, 0, len(s.config.Offers))
	for _, offer := range s.config.Offers {
		topics = append(topics, offer.Topic)
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

// woken tells the sender of this process that something may be due.
func (s *Store) woken() {
	if wake := s.wake.Load(); wake != nil {
		(*wake)()
	}
}

// detached is a context for work that must not be cut off: cancelling a query costs its
// connection.
func detached(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), timeout)
}

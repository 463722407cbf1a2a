package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/filter"
	"github.com/countermand/countermand/platform/postgres"
)

// ConsumerName owns the positions of the matcher.
const ConsumerName = "webhooks"

// Matcher finds out who wants each event. It is the [consumer.Processor] of a feed over
// [Store.Topics]; any number of processes may run one.
type Matcher struct {
	store *Store

	mu      sync.Mutex // several workers share one matcher
	current *directory
}

// NewMatcher returns a matcher for the subscriptions of a store.
func NewMatcher(store *Store) *Matcher { return &Matcher{store: store} }

// directory is the subscriptions that events are kept for, at one generation.
type directory struct {
	generation int64
	byTenant   map[string][]match
}

// match is what matching needs of a subscription.
type match struct {
	id      uuid.UUID
	filter  *filter.Filter
	ordered bool
	since   time.Time
}

// sinceSlack is how much older than its subscription an event may be. A new subscription
// gets what is said from now on; the slack is for clocks that differ, and a matcher that
// is behind would otherwise deliver what was said long before.
const sinceSlack = 10 * time.Second

// Process implements [consumer.Processor].
func (m *Matcher) Process(ctx context.Context, batch *consumer.Batch) error {
	err := postgres.InTx(ctx, m.store.pool, func(tx pgx.Tx) error {
		subscriptions, err := m.directory(ctx, tx)
		if err != nil {
			return err
		}
		w := &writing{retryFor: m.store.config.RetryFor}
		for i := range batch.Deliveries {
			if batch.Skip(i) {
				continue
			}
			if d := &batch.Deliveries[i]; d.Malformed == nil {
				m.match(w, subscriptions, d)
			}
			batch.Done(i)
		}
		statements := &pgx.Batch{}
		w.queue(statements)
		batch.QueuePositions(statements)
		if err := tx.SendBatch(ctx, statements).Close(); err != nil {
			return fmt.Errorf("match events for webhooks: %w", err)
		}
		m.store.metrics.matched.Add(float64(len(w.deliveries)))
		return nil
	})
	if err == nil {
		m.store.woken()
	}
	return err
}

func (m *Matcher) match(w *writing, subscriptions *directory, d *broker.Delivery) {
	if !m.store.offered[d.Event.Type] {
		return
	}
	tenant := d.Event.Extension(events.TenantExtension)
	in := filter.Input{Event: &d.Event}
	for _, s := range subscriptions.byTenant[tenant] {
		if d.StoredAt.Before(s.since.Add(-sinceSlack)) || !s.filter.Holds(&in) {
			continue
		}
		w.add(&d.Event, d.Topic, tenant, s)
	}
}

// directory returns the subscriptions as this transaction sees them. It reads one number
// when none of them has changed.
func (m *Matcher) directory(ctx context.Context, tx pgx.Tx) (*directory, error) {
	var generation int64
	if err := tx.QueryRow(ctx, "select n from webhook_generation").Scan(&generation); err != nil {
		return nil, fmt.Errorf("read generation of webhooks: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current != nil && m.current.generation == generation {
		return m.current, nil
	}
	// What is read now is at least as new as the number; should it be newer, the next
	// batch sees another number and reads again.
	rows, err := tx.Query(ctx, "select id, tenant, document, created_at from webhook_subscription where state in ('active', 'paused')")
	if err != nil {
		return nil, fmt.Errorf("read subscriptions: %w", err)
	}
	var (
		fresh    = &directory{generation: generation, byTenant: make(map[string][]match)}
		s        match
		tenant   string
		document []byte
	)
	_, err = pgx.ForEachRow(rows, []any{&s.id, &tenant, &document, &s.since}, func() error {
		var st stated
		if err := json.Unmarshal(document, &st); err != nil {
			return fmt.Errorf("subscription %s: %w", s.id, err)
		}
		// Whether its types are still offered and its sink still allowed does not matter
		// here: a subscription that was fine when it was made stays.
		c := &checker{}
		s.filter = c.filter(&Subscription{Source: st.Source, Types: st.Types, Filters: st.Filters}, nil)
		if len(c.violations) > 0 {
			return fmt.Errorf("subscription %s: %w", s.id, c.violations)
		}
		s.ordered = st.Config[configOrder] == orderKey
		fresh.byTenant[tenant] = append(fresh.byTenant[tenant], s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read subscriptions: %w", err)
	}
	m.current = fresh
	return fresh, nil
}

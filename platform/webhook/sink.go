package webhook

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/time/rate"

	"github.com/countermand/countermand/events"
)

// sink sends to one subscription for as long as something is due. Everything in it
// belongs to the goroutine of run.
type sink struct {
	sender  *Sender
	row     *row
	plan    *plan
	limiter *rate.Limiter // nil: any rate

	failures int // in a row
	inFlight map[uuid.UUID]bool
	queue    []*due
	fetched  time.Time // when the queue was
	after    string    // the last key that was looked at, where keys keep their order
	results  chan result
}

// A queue of several times what may be in flight saves round trips to the database. It is
// soon read anew, so that a pause or another sink takes effect at once.
const (
	queueFactor = 4
	queueAgeMax = 500 * time.Millisecond
	// queueBytesMax bounds the data in a queue, but for its last event.
	queueBytesMax = 1 << 20
)

// due is a delivery that is to be sent.
type due struct {
	id       uuid.UUID
	event    events.Event
	key      string
	attempts int
	tried    int
}

// result is what became of a delivery that was in flight.
type result struct {
	id      uuid.UUID
	sent    bool // false: it was given up before it was sent
	outcome outcome
}

func (s *Sender) newSink(r *row) (*sink, error) {
	plan, err := r.full().compile(nil, nil) // what the guard says of the sink is for the attempt to tell
	if err != nil {
		return nil, fmt.Errorf("subscription %s: %w", r.id, err)
	}
	return &sink{
		sender: s, row: r, plan: plan, limiter: s.limiter(r), failures: r.failures,
		inFlight: make(map[uuid.UUID]bool), results: make(chan result),
	}, nil
}

// run sends until nothing is due, the sink is to be left alone, or ctx ends. It returns
// when what it has sent is recorded, and tells whether there was anything.
func (k *sink) run(ctx context.Context) (any bool) {
	stopped := false
	for {
		var wait <-chan time.Time
		if !stopped && ctx.Err() == nil {
			rest, err := k.launch(ctx)
			if err != nil {
				k.sender.config.Logger.WarnContext(ctx, "due deliveries cannot be read", "subscription", k.row.id, "error", err)
				stopped = true
			}
			if rest > 0 {
				wait = time.After(rest)
			}
		}
		if len(k.inFlight) == 0 && wait == nil {
			return any
		}
		select {
		case r := <-k.results:
			any = any || r.sent
			delete(k.inFlight, r.id)
			if r.sent && !k.judge(ctx, &r.outcome) {
				stopped = true
			}
		case <-wait:
		case <-k.end(ctx, wait):
			stopped = true
		}
	}
}

// end is ctx's end while nothing but a wait keeps run from returning.
func (k *sink) end(ctx context.Context, wait <-chan time.Time) <-chan struct{} {
	if wait == nil {
		return nil
	}
	return ctx.Done()
}

// launch sends as much as may be in flight at once. It returns how long to wait for
// the rate that the sink has allowed.
func (k *sink) launch(ctx context.Context) (time.Duration, error) {
	most := k.plan.concurrency
	if k.failures > 0 {
		most = 1 // see whether it is well again
	}
	for len(k.inFlight) < most {
		if k.limiter != nil {
			if tokens := k.limiter.Tokens(); tokens < 1 {
				if len(k.queue) == 0 && len(k.inFlight) > 0 {
					return 0, nil // what is in flight may be all
				}
				return time.Duration((1-tokens)/float64(k.limiter.Limit())*float64(time.Second)) + time.Millisecond, nil
			}
		}
		if len(k.queue) == 0 || time.Since(k.fetched) > queueAgeMax {
			var err error
			k.fetched = time.Now()
			if k.queue, err = k.fetch(ctx, queueFactor*most); err != nil || len(k.queue) == 0 {
				return 0, err
			}
		}
		d := k.queue[0]
		k.queue = k.queue[1:]
		if k.limiter != nil {
			k.limiter.Allow()
		}
		k.inFlight[d.id] = true
		go func() { k.results <- k.deliver(ctx, d) }()
	}
	return 0, nil
}

// What is due of a subscription, while that is what it was when the job began.
const (
	unchanged = ` exists (select from webhook_subscription where id = $1 and revision = $3 and state = 'active')`

	pickDue = `picked as (
			select d.id, d.key, d.attempts, d.tried, d.event, row_number() over (order by d.due_at, d.seq) as place from (
				select * from webhook_delivery
				where subscription = $1 and state = 'pending' and due_at <= clock_timestamp() and not id = any($4::uuid[]) and` + unchanged + `
				order by due_at, seq limit $2
			) as d
		)`

	// The walk goes from key to key and looks at the first of each only: what waits behind
	// it costs nothing.
	pickFirst = `first as (
			(select d.key, d.id, d.due_at from webhook_delivery as d
			where d.subscription = $1 and d.state = 'pending' and d.ordered and d.key > $6
			order by d.key, d.seq limit 1)
			union all
			select n.key, n.id, n.due_at from first as f cross join lateral (
				select d.key, d.id, d.due_at from webhook_delivery as d
				where d.subscription = $1 and d.state = 'pending' and d.ordered and d.key > f.key
				order by d.key, d.seq limit 1) as n
		), ready as (
			select id from first
			where due_at <= clock_timestamp() and not id = any($4::uuid[]) and` + unchanged + ` limit $2
		), picked as (
			select d.id, d.key, d.attempts, d.tried, d.event, row_number() over (order by d.key) as place
			from ready as r join webhook_delivery as d on d.id = r.id
		)`
)

// fetch returns up to limit deliveries that are due and not in flight. There are none
// once the subscription is not what it was when this job began.
func (k *sink) fetch(ctx context.Context, limit int) ([]*due, error) {
	work, cancel := detached(ctx, 30*time.Second)
	defer cancel()
	flying := make([]uuid.UUID, 0, len(k.inFlight))
	for id := range k.inFlight {
		flying = append(flying, id)
	}
	pick, args := pickDue, []any{k.row.id, limit, k.row.revision, flying, queueBytesMax}
	if k.plan.ordered {
		pick, args = pickFirst, append(args, k.after)
	}
	rows, err := k.sender.store.pool.Query(work, "with recursive "+pick+`, sized as (
			select p.*, e.attributes, e.data, sum(coalesce(octet_length(e.data), 0)) over (order by p.place) - coalesce(octet_length(e.data), 0) as before
			from picked as p join webhook_event as e on e.id = p.event
		)
		select id, key, attempts, tried, attributes, data from sized
		where before < $5
		order by place`, args...)
	if err != nil {
		return nil, fmt.Errorf("read due deliveries: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*due, error) {
		var (
			d                due
			attributes, data []byte
		)
		if err := row.Scan(&d.id, &d.key, &d.attempts, &d.tried, &attributes, &data); err != nil {
			return nil, err
		}
		d.event, err = events.ParseAttributes(attributes, data)
		return &d, err
	})
	if err != nil {
		return nil, fmt.Errorf("read due deliveries: %w", err)
	}
	if k.plan.ordered {
		if len(all) == 0 && k.after != "" {
			k.after = "" // from the first key again
			return k.fetch(ctx, limit)
		}
		if len(all) > 0 {
			k.after = all[len(all)-1].key
		}
	}
	return all, nil
}

// judge takes in what a delivery tells of its sink. It returns false when nothing more
// is to be sent now.
func (k *sink) judge(ctx context.Context, o *outcome) bool {
	switch {
	case o.verdict == gone:
		k.sender.disable(ctx, k.row, "the sink answered 410 Gone")
		return false
	case !o.ill:
		if k.failures > 0 {
			k.failures = 0
			k.note(ctx, 0)
		}
		return true
	}
	k.failures++
	rest := o.retryAfter
	if k.failures >= k.sender.config.FailuresMax {
		longer := k.sender.config.RestBase << min(k.failures-k.sender.config.FailuresMax, 16)
		longer = min(longer, k.sender.config.RestMax)
		rest = max(rest, longer/2+rand.N(longer/2+1)) //nolint:gosec // spread, not secrecy
	}
	k.note(ctx, rest)
	return rest == 0
}

// note stores how the sink is, for whoever serves it next.
func (k *sink) note(ctx context.Context, rest time.Duration) {
	work, cancel := detached(ctx, 10*time.Second)
	defer cancel()
	_, err := k.sender.store.pool.Exec(work, `
		update webhook_subscription set failures = $3,
			rest_until = case when $4::interval > '0' then clock_timestamp() + $4::interval end
		where id = $1 and revision = $2`, k.row.id, k.row.revision, k.failures, rest)
	if err != nil {
		k.sender.config.Logger.WarnContext(ctx, "state of a webhook's sink is not stored", "subscription", k.row.id, "error", err)
	}
}

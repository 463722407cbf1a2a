package budget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/postgres"
)

// Errors of those who look after budgets.
var (
	ErrNotFound = errors.New("there is none with this id")
	// ErrTwice means that a budget with the same scope, unit and period is there.
	ErrTwice = errors.New("another budget has the same tenant, app, key, unit and period")
	// ErrEnded means that an attempt is not uncertain any more.
	ErrEnded = errors.New("the attempt is not uncertain")
)

// PeriodStatus is how a budget stands in one period.
type PeriodStatus struct {
	Budget   Budget    `json:"budget"`
	StartsAt time.Time `json:"starts_at"`
	EndsAt   time.Time `json:"ends_at"`
	Spent    int64     `json:"spent"`
	// Reserved is what calls hold that have not ended, what is uncertain, and what
	// processes have leased and not handed out.
	Reserved int64 `json:"reserved"`
	// Left is what may be reserved still.
	Left int64 `json:"left"`
}

// Put makes a budget, or changes the one with its id, but not its unit and period.
// Processes heed it within a second or so; what was let through before stays.
func (k *Keeper) Put(ctx context.Context, b Budget) error {
	if err := b.Validate(); err != nil {
		return err
	}
	b = b.withDefaults()
	err := postgres.InTx(ctx, k.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			insert into ai_budget as b (id, tenant, app, key, unit, period, limit_amount, on_uncertain, warn_at)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			on conflict (id) do update set tenant = excluded.tenant, app = excluded.app, key = excluded.key,
				limit_amount = excluded.limit_amount, on_uncertain = excluded.on_uncertain, warn_at = excluded.warn_at,
				revision = b.revision + 1, updated_at = clock_timestamp()
			where b.unit = excluded.unit and b.period = excluded.period`,
			b.ID, b.Tenant, b.App, b.Key, b.Unit, b.Period, b.Limit, b.OnUncertain, b.WarnAt)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 { // or dollars that were spent would be taken for tokens
			return fmt.Errorf("%w: unit and period of a budget stay as they are; make another one with another id", ErrInvalid)
		}
		// More may fit now, so that the next refusal is news.
		if _, err := tx.Exec(ctx, "update ai_period set exhausted_at = null where budget_id = $1 and ends_at > clock_timestamp()", b.ID); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "update ai_budget_revision set revision = revision + 1")
		return err
	})
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == "23505" {
		return fmt.Errorf("put budget %s: %w", b.ID, ErrTwice)
	}
	if err != nil {
		return fmt.Errorf("put budget %s: %w", b.ID, err)
	}
	k.look()
	return nil
}

// Delete removes a budget. What was spent of it is kept as long as its periods are, and
// counts again when it is made anew: use another id for another unit or period.
func (k *Keeper) Delete(ctx context.Context, id string) error {
	err := postgres.InTx(ctx, k.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "delete from ai_budget where id = $1", id)
		if err == nil && tag.RowsAffected() == 0 {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "update ai_budget_revision set revision = revision + 1")
		return err
	})
	if err != nil {
		return fmt.Errorf("delete budget %s: %w", id, err)
	}
	k.look()
	return nil
}

// look has this process look for changes at once.
func (k *Keeper) look() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Filter of [Keeper.Budgets]. Empty fields stand for any.
type Filter struct {
	ID, Tenant, App, Key string
	After                string // the id after which the page begins
	Limit                int    // 100 when zero, at most 1000
}

// Budgets returns how budgets stand in their present periods, in the order of their ids.
func (k *Keeper) Budgets(ctx context.Context, f Filter) ([]PeriodStatus, error) {
	rows, err := k.pool.Query(ctx, `
		select b.id, b.tenant, b.app, b.key, b.unit, b.period, b.limit_amount, b.on_uncertain, b.warn_at,
			date_trunc(b.period, clock_timestamp(), 'UTC'),
			(date_trunc(b.period, clock_timestamp(), 'UTC') at time zone 'UTC' + ('1 ' || b.period)::interval) at time zone 'UTC',
			coalesce(p.spent, 0), coalesce(p.reserved, 0)
		from ai_budget b left join ai_period p on p.budget_id = b.id and p.starts_at = date_trunc(b.period, clock_timestamp(), 'UTC')
		where ($1 = '' or b.id = $1) and ($2 = '' or b.tenant = $2) and ($3 = '' or b.app = $3) and ($4 = '' or b.key = $4) and b.id > $5
		order by b.id limit $6`, f.ID, f.Tenant, f.App, f.Key, f.After, page(f.Limit))
	if err != nil {
		return nil, fmt.Errorf("read budgets: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s PeriodStatus, err error) {
		b := &s.Budget
		err = row.Scan(&b.ID, &b.Tenant, &b.App, &b.Key, &b.Unit, &b.Period, &b.Limit, &b.OnUncertain, &b.WarnAt, &s.StartsAt, &s.EndsAt, &s.Spent, &s.Reserved)
		s.StartsAt, s.EndsAt, s.Left = s.StartsAt.UTC(), s.EndsAt.UTC(), max(b.Limit-s.Spent-s.Reserved, 0)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("read budgets: %w", err)
	}
	return found, nil
}

func page(limit int) int {
	if limit <= 0 {
		return 100
	}
	return min(limit, 1000)
}

// Open is an attempt that is uncertain.
type Open struct {
	CallID    ai.CallID  `json:"call_id"`
	Attempt   int        `json:"attempt"`
	Caller    ai.Caller  `json:"caller"`
	Operation string     `json:"operation"`
	Model     ai.Model   `json:"target"`
	Most      ai.NanoUSD `json:"held_nano_usd"`
	Reason    string     `json:"reason"`
	Since     time.Time  `json:"dispatched_at"`
	Saga      string     `json:"saga,omitempty"`
}

// Uncertain returns the attempts that are uncertain, the oldest first.
func (k *Keeper) Uncertain(ctx context.Context, limit int) ([]Open, error) {
	rows, err := k.pool.Query(ctx, `
		select call_id, attempt, tenant, app, key, operation, provider, model, most, reason, dispatched_at, saga_id
		from ai_attempt where state = 'uncertain' order by call_id, attempt limit $1`, page(limit))
	if err != nil {
		return nil, fmt.Errorf("read uncertain attempts: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o Open, err error) {
		var id uuid.UUID
		err = row.Scan(&id, &o.Attempt, &o.Caller.Tenant, &o.Caller.App, &o.Caller.Key, &o.Operation, &o.Model.Provider, &o.Model.Name, &o.Most, &o.Reason, &o.Since, &o.Saga)
		o.CallID, o.Since = ai.CallID(id), o.Since.UTC()
		return o, err
	})
	if err != nil {
		return nil, fmt.Errorf("read uncertain attempts: %w", err)
	}
	return found, nil
}

// Resolve ends an uncertain attempt: with what it has cost, when cost is not nil, or as
// one that cost nothing. note says who found out and how.
func (k *Keeper) Resolve(ctx context.Context, call ai.CallID, attempt int, cost *ai.NanoUSD, note string) error {
	err := postgres.InTx(ctx, k.pool, func(tx pgx.Tx) error {
		entries, err := readEntries(ctx, tx, "where call_id = $1 and attempt = $2 for update", uuid.UUID(call), attempt)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return ErrNotFound
		}
		e := entries[0]
		if e.state != uncertain {
			return ErrEnded
		}
		e.doubtful, e.reason = true, clip(e.reason+"; resolved: "+note)
		if cost == nil {
			e.release()
		} else {
			e.settle(max(*cost, 0))
			e.priced = true
		}
		_, err = write(ctx, tx, entries, nil, k.config.NoCallEvents)
		return err
	})
	if err != nil {
		return fmt.Errorf("resolve attempt %d of call %s: %w", attempt, call, err)
	}
	k.config.Wake()
	return nil
}

// UsageFilter of [Keeper.Usage]. By names what sums are for: any of hour, day, tenant,
// app, key, provider, model and operation.
type UsageFilter struct {
	From, To         time.Time // whole hours; To is not included
	Tenant, App, Key string
	By               []string
	Limit            int
}

// UsageRow is a sum of what attempts have used that ended in a time. Fields that it is
// not grouped by are empty.
type UsageRow struct {
	At        *time.Time `json:"at,omitempty"`
	Tenant    string     `json:"tenant,omitempty"`
	App       string     `json:"app,omitempty"`
	Key       string     `json:"key,omitempty"`
	Provider  string     `json:"provider,omitempty"`
	Model     string     `json:"model,omitempty"`
	Operation string     `json:"operation,omitempty"`
	Settled   int64      `json:"settled"`
	Released  int64      `json:"released"`
	Uncertain int64      `json:"uncertain"`
	// Unpriced are settled attempts of models without a price; their cost is not known.
	Unpriced int64      `json:"unpriced"`
	Usage    ai.Usage   `json:"usage"`
	Cost     ai.NanoUSD `json:"cost_nano_usd"`
}

// Usage returns sums over the hours of a time, the dearest first, or in the order of
// time where they are grouped by it.
func (k *Keeper) Usage(ctx context.Context, f UsageFilter) ([]UsageRow, error) {
	columns := map[string]string{
		"tenant": "tenant", "app": "app", "key": "key", "provider": "provider", "model": "model", "operation": "operation",
	}
	at, selected := "null::timestamptz", map[string]string{}
	for name := range columns {
		selected[name] = "''::text"
	}
	for _, name := range f.By {
		switch column, ok := columns[name]; {
		case name == "hour":
			at = "hour"
		case name == "day":
			at = "date_trunc('day', hour, 'UTC')"
		case ok:
			selected[name] = column
		default:
			return nil, fmt.Errorf("%w: sums by %q: want hour, day, tenant, app, key, provider, model or operation", ErrInvalid, name)
		}
	}
	// A sum in numeric, for one of bigint may not fit one.
	total := func(column string) string { return "least(sum(" + column + "), 9223372036854775807)::bigint" }
	rows, err := k.pool.Query(ctx, `
		select `+at+` as at, `+selected["tenant"]+`, `+selected["app"]+`, `+selected["key"]+`, `+selected["provider"]+`, `+selected["model"]+`, `+selected["operation"]+`,
			`+total("settled")+`, `+total("released")+`, `+total("uncertain")+`, `+total("unpriced")+`, `+total("input")+`, `+total("cached_input")+`,
			`+total("cache_write")+`, `+total("output")+`, `+total("reasoning")+`, `+total("cost")+` as cost
		from ai_usage_hourly
		where hour >= $1 and hour < $2 and ($3 = '' or tenant = $3) and ($4 = '' or app = $4) and ($5 = '' or key = $5)
		group by 1, 2, 3, 4, 5, 6, 7 having count(*) > 0
		order by at, cost desc, 2, 3, 4, 5, 6, 7 limit $6`, f.From, f.To, f.Tenant, f.App, f.Key, page(f.Limit))
	if err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (u UsageRow, err error) {
		err = row.Scan(&u.At, &u.Tenant, &u.App, &u.Key, &u.Provider, &u.Model, &u.Operation, &u.Settled, &u.Released, &u.Uncertain, &u.Unpriced,
			&u.Usage.Input, &u.Usage.CachedInput, &u.Usage.CacheWrite, &u.Usage.Output, &u.Usage.Reasoning, &u.Cost)
		return u, err
	})
	if err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	return found, nil
}

package budget

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/postgres"
)

// Limits of one look of the sweeper.
const (
	sweepHolders  = 20
	sweepAttempts = 500
	sweepTimeout  = 20 * time.Second
)

// leaseOperation is the operation of the attempt that stands for what a process that
// has died had leased and not recorded.
const leaseOperation = "lease"

// Sweep ends what processes that died have left open, as Run does from time to time,
// and returns how many attempts it ended. Any number of processes may do so at once.
func (k *Keeper) Sweep(ctx context.Context) (ended int, err error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	rows, err := k.pool.Query(ctx, `
		select id from ai_holder where expires_at < clock_timestamp() - $1::interval
		order by expires_at limit $2`, k.config.ReclaimAfter, sweepHolders)
	if err != nil {
		return 0, fmt.Errorf("find dead holders: %w", err)
	}
	dead, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, fmt.Errorf("find dead holders: %w", err)
	}
	for _, holder := range dead {
		if err := k.reclaim(ctx, holder); err != nil {
			return 0, fmt.Errorf("reclaim leases of %s: %w", holder, err)
		}
	}
	err = postgres.InTx(ctx, k.pool, func(tx pgx.Tx) error {
		entries, err := readEntries(ctx, tx, `
			where state = 'dispatched' and not exists (select from ai_holder h where h.id = a.holder_id)
			order by call_id, attempt limit `+strconv.Itoa(sweepAttempts)+` for update skip locked`)
		if err != nil || len(entries) == 0 {
			return err
		}
		for _, e := range entries {
			if err := giveUp(ctx, tx, e, "the process that made it has died"); err != nil {
				return err
			}
		}
		ended = len(entries)
		_, err = write(ctx, tx, entries, nil, k.config.NoCallEvents)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("end attempts of dead processes: %w", err)
	}
	if ended > 0 {
		k.lost.Add(float64(ended))
		k.config.Wake()
	}
	return ended, nil
}

// reclaim takes the leases of a holder that has expired. What a saga had put by goes
// back, since all of its attempts are recorded. What a process had leased may have been
// spent by calls of its last moments, so it becomes an uncertain attempt.
func (k *Keeper) reclaim(ctx context.Context, holder uuid.UUID) error {
	err := postgres.InTx(ctx, k.pool, func(tx pgx.Tx) error {
		var kind string
		err := tx.QueryRow(ctx, `
			select kind from ai_holder where id = $1 and expires_at < clock_timestamp() - $2::interval
			for update skip locked`, holder, k.config.ReclaimAfter).Scan(&kind)
		if errors.Is(err, pgx.ErrNoRows) { // it is alive after all, or another process is at it
			return nil
		}
		if err != nil {
			return err
		}
		if kind == "node" {
			if err := k.keepLump(ctx, tx, holder); err != nil {
				return err
			}
		}
		return dissolve(ctx, tx, holder)
	})
	if err == nil {
		k.reclaimed.Inc()
	}
	return err
}

// keepLump turns what a process had leased into an uncertain attempt that holds it,
// apart from budgets that release what is uncertain.
func (k *Keeper) keepLump(ctx context.Context, tx pgx.Tx, holder uuid.UUID) error {
	rows, err := tx.Query(ctx, `
		select l.budget_id, (extract(epoch from l.starts_at) * 1000000)::bigint, l.amount, b.unit
		from ai_lease l join ai_budget b on b.id = l.budget_id join ai_period p on p.budget_id = l.budget_id and p.starts_at = l.starts_at
		where l.holder_id = $1 and l.amount > 0 and b.on_uncertain <> 'release' and p.ends_at > clock_timestamp()
		order by l.budget_id, l.starts_at`, holder)
	if err != nil {
		return err
	}
	held, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h hold, err error) {
		err = row.Scan(&h.Budget, &h.Starts, &h.Amount, &h.Unit)
		return h, err
	})
	if err != nil || len(held) == 0 {
		return err
	}
	e := &entry{
		id: uuid.UUID(ai.NewCallID()), number: 1, holder: holder, call: Call{Operation: leaseOperation}, state: uncertain, begun: time.Now(), held: held,
		reason: doubt + "leased by a process that has died, and perhaps spent in its last moments", doubtful: true,
	}
	for _, h := range held {
		if h.Unit == USD {
			e.most = max(e.most, ai.NanoUSD(h.Amount))
		}
	}
	_, err = write(ctx, tx, []*entry{e}, nil, k.config.NoCallEvents)
	return err
}

// giveUp ends an attempt of which nobody knows what it has cost, as the policies of
// its budgets say.
func giveUp(ctx context.Context, tx pgx.Tx, e *entry, reason string) error {
	ids := make([]string, len(e.held))
	for i, h := range e.held {
		ids[i] = h.Budget
	}
	rows, err := tx.Query(ctx, "select "+budgetColumns+" from ai_budget where id = any($1)", ids)
	if err != nil {
		return fmt.Errorf("read policies: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanBudget)
	if err != nil {
		return fmt.Errorf("read policies: %w", err)
	}
	budgets := make([]*Budget, len(found))
	for i := range found {
		budgets[i] = &found[i]
	}
	e.reason, e.doubtful, e.source = doubt+reason, true, ai.Estimated
	switch policy(budgets) {
	case Charge:
		e.settle(e.most)
	case Drop:
		e.release()
	default:
		e.state = uncertain
	}
	return nil
}

// settle charges what the attempt costs, and takes all of the tokens that it holds.
func (e *entry) settle(cost ai.NanoUSD) {
	e.state, e.cost = settled, cost
	for i := range e.held {
		h := &e.held[i]
		h.Used = h.Amount
		if h.Unit == USD {
			h.Used = int64(cost)
		}
	}
}

func (e *entry) release() {
	e.state, e.cost = released, 0
	for i := range e.held {
		h := &e.held[i]
		h.Used = 0
		if h.Unit == Requests {
			h.Used = h.Amount
		}
	}
}

// readEntries reads attempts as the database has them; where selects and locks them.
func readEntries(ctx context.Context, tx pgx.Tx, where string, args ...any) ([]*entry, error) {
	rows, err := tx.Query(ctx, `
		select call_id, attempt, state, holder_id, tenant, app, key, operation, requested, provider, model, saga_id, held,
			input, cached_input, cache_write, output, reasoning, usage_source, most, price, price_version, reason, dispatched_at
		from ai_attempt a `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read attempts: %w", err)
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*entry, error) {
		e := &entry{known: true}
		err := row.Scan(&e.id, &e.number, &e.state, &e.holder, &e.call.Caller.Tenant, &e.call.Caller.App, &e.call.Caller.Key,
			&e.call.Operation, &e.call.Model, &e.model.Provider, &e.model.Name, &e.call.Saga, &e.held,
			&e.usage.Input, &e.usage.CachedInput, &e.usage.CacheWrite, &e.usage.Output, &e.usage.Reasoning, &e.source, &e.most, &e.price, &e.version, &e.reason, &e.begun)
		e.call.ID, e.priced = ai.CallID(e.id), e.price != ""
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read attempts: %w", err)
	}
	return entries, nil
}

// Retain makes the partitions of the months to come and drops what is older than the
// books go back, as Run does every hour. What another process is making or dropping at
// that moment is left to it.
func (k *Keeper) Retain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := k.pool.Exec(ctx, "select ai_partitions(2)"); err != nil {
		return fmt.Errorf("make partitions of the books: %w", err)
	}
	for table, keep := range map[string]time.Duration{
		"ai_attempt": k.config.KeepAttempts, "ai_ledger": k.config.KeepLedger, "ai_usage_hourly": k.config.KeepUsage,
	} {
		if _, err := k.pool.Exec(ctx, "select ai_drop_partitions($1, $2)", table, keep); err != nil {
			return fmt.Errorf("drop partitions of %s: %w", table, err)
		}
	}
	// Short periods are many rows, and nobody asks for a minute of last week.
	_, err := k.pool.Exec(ctx, `
		delete from ai_period where (budget_id, starts_at) in (
			select budget_id, starts_at from ai_period
			where ends_at < clock_timestamp() - case when ends_at - starts_at < interval '1 day' then interval '8 days' else $1::interval end
			order by ends_at limit 10000)`, k.config.KeepUsage)
	if err != nil {
		return fmt.Errorf("drop old periods: %w", err)
	}
	return nil
}

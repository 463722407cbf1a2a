package budget

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/postgres"
)

// durable is what makes a reservation outlive its process: it has leases of its own,
// and each of its steps is a transaction.
type durable struct {
	holder uuid.UUID
	fence  func(ctx context.Context, tx pgx.Tx) error
}

// Hold puts by, in tx, what wants of the caller's budgets, under an id of the caller's
// choosing, for at most that long. It reports how many budgets it is held against. The
// error is a *[Refusal] where a budget lacks: roll back then. Holding again under the
// same id does nothing.
func (k *Keeper) Hold(ctx context.Context, tx pgx.Tx, id uuid.UUID, caller ai.Caller, amounts map[Unit]int64, atMost time.Duration) (budgets int, err error) {
	all, err := budgetsOf(ctx, tx, caller)
	if err != nil {
		return 0, err
	}
	tag, err := tx.Exec(ctx, `
		insert into ai_holder (id, kind, name, tenant, app, key, expires_at) values ($1, 'saga', $1::uuid::text, $2, $3, $4, clock_timestamp() + $5::interval)
		on conflict (id) do nothing`, id, text(caller.Tenant), text(caller.App), text(caller.Key), atMost)
	if err != nil {
		return 0, fmt.Errorf("hold for %s: %w", id, err)
	}
	var wants []want
	for _, b := range all {
		if amount := amounts[b.Unit]; amount > 0 {
			wants = append(wants, want{b, amount})
		}
	}
	if tag.RowsAffected() == 0 || len(wants) == 0 {
		return len(wants), nil
	}
	grants, err := askGrants(ctx, tx, id, 0, []question{wants})
	if err != nil {
		return 0, fmt.Errorf("hold for %s: %w", id, err)
	}
	for _, g := range grants[0] {
		if g.refused {
			return 0, k.refuse(g.refusal(budgetOf(wants, g.budget), needOf(wants, g.budget)))
		}
	}
	return len(wants), nil
}

// Unhold gives back what is left of a hold, in tx, and forgets it. It reports whether
// there was one.
func (k *Keeper) Unhold(ctx context.Context, tx pgx.Tx, id uuid.UUID) (bool, error) {
	var there bool
	if err := tx.QueryRow(ctx, "select exists (select from ai_holder where id = $1 and kind = 'saga')", id).Scan(&there); err != nil {
		return false, fmt.Errorf("give the hold of %s back: %w", id, err)
	}
	if !there {
		return false, nil
	}
	return true, dissolve(ctx, tx, id)
}

// Resume returns a reservation on what is held under an id. It is durable: Dispatch
// has stored the attempt when it returns, and how attempts end is stored by
// [Reservation.Store], in a transaction of whoever stores the answer. Closing it gives
// nothing back; [Keeper.Unhold] does.
//
// A call whose attempts were released may be resumed again: their numbers go on where
// those in the books end. fence is run in the transaction that stores an attempt,
// before it is sent. Its error keeps the attempt from being sent: whoever makes the call
// has others make it when it seems dead, and must not send anything after that.
func (k *Keeper) Resume(ctx context.Context, holder uuid.UUID, call Call, fence func(ctx context.Context, tx pgx.Tx) error) (*Reservation, error) {
	if k.pool == nil {
		return nil, errors.New("resume a reservation: nothing is kept")
	}
	if call.ID.IsZero() {
		call.ID = ai.NewCallID()
	}
	r := &Reservation{keeper: k, call: call, durable: &durable{holder: holder, fence: fence}}
	err := k.pool.QueryRow(ctx, "select coalesce(max(attempt), 0) from ai_attempt where call_id = $1", uuid.UUID(call.ID)).Scan(&r.last)
	if err != nil {
		return nil, unavailable(err)
	}
	if r.budgets, err = budgetsOf(ctx, k.pool, call.Caller); err != nil {
		return nil, unavailable(err)
	}
	rows, err := k.pool.Query(ctx, `
		select l.budget_id, l.starts_at, l.amount from ai_lease l join ai_holder h on h.id = l.holder_id
		where l.holder_id = $1 and l.amount > 0 order by l.budget_id, l.starts_at`, holder)
	if err != nil {
		return nil, unavailable(err)
	}
	defer rows.Close()
	for rows.Next() {
		var (
			id     string
			starts time.Time
			amount int64
		)
		if err := rows.Scan(&id, &starts, &amount); err != nil {
			return nil, unavailable(err)
		}
		for _, b := range r.budgets {
			if b.ID == id {
				r.parts = append(r.parts, part{r.durable.lease(b, starts), amount})
			}
		}
	}
	if err := rows.Err(); err != nil {
		return nil, unavailable(err)
	}
	return r, nil
}

// lease returns a lease of the reservation's own. Nobody hands anything out of it.
func (d *durable) lease(b *Budget, starts time.Time) *lease {
	return &lease{key: leaseKey{d.holder, b.ID, starts.UnixMicro()}, budget: b, starts: starts, open: 1}
}

// take asks the database for more than was held at first.
func (d *durable) take(ctx context.Context, k *Keeper, wants []want) (parts []part, err error) {
	var refusal *Refusal
	err = postgres.InTx(ctx, k.pool, func(tx pgx.Tx) error {
		grants, err := askGrants(ctx, tx, d.holder, 0, []question{wants})
		if err != nil {
			return err
		}
		parts, refusal = nil, nil
		for _, g := range grants[0] {
			b := budgetOf(wants, g.budget)
			if g.refused {
				refusal = g.refusal(b, needOf(wants, g.budget))
				return nil // the event about it is to be committed
			}
			parts = append(parts, part{d.lease(b, g.starts), g.amount})
		}
		return nil
	})
	if err != nil {
		return nil, unavailable(err)
	}
	if refusal != nil {
		return nil, k.refuse(refusal)
	}
	return parts, nil
}

// Store writes how the attempts of a durable reservation stand into the books, in tx.
// It may be repeated when tx is rolled back.
func (r *Reservation) Store(ctx context.Context, tx pgx.Tx) error {
	r.keeper.mu.Lock()
	entries := make([]*entry, len(r.attempts))
	for i, a := range r.attempts {
		entries[i] = a.snapshot()
		entries[i].known = true
	}
	r.keeper.mu.Unlock()
	_, err := write(ctx, tx, entries, nil, r.keeper.config.NoCallEvents)
	return err
}

// GiveUp ends, in tx, the attempts of a call that are open, because whoever made it has
// died. It reports how many there were.
func (k *Keeper) GiveUp(ctx context.Context, tx pgx.Tx, call ai.CallID, reason string) (int, error) {
	entries, err := readEntries(ctx, tx, "where call_id = $1 and state = 'dispatched' order by attempt for update", uuid.UUID(call))
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	for _, e := range entries {
		if err := giveUp(ctx, tx, e, clip(reason)); err != nil {
			return 0, err
		}
	}
	k.lost.Add(float64(len(entries)))
	_, err = write(ctx, tx, entries, nil, k.config.NoCallEvents)
	return len(entries), err
}

// budgetsOf reads the budgets of a caller, in the order of their ids.
func budgetsOf(ctx context.Context, db querier, c ai.Caller) ([]*Budget, error) {
	rows, err := db.Query(ctx, "select "+budgetColumns+` from ai_budget
		where tenant = '' or tenant = $1 and (app = '' or app = $2) and (key = '' or key = $3) order by id`, c.Tenant, c.App, c.Key)
	if err != nil {
		return nil, fmt.Errorf("read budgets: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanBudget)
	if err != nil {
		return nil, fmt.Errorf("read budgets: %w", err)
	}
	budgets := make([]*Budget, len(found))
	for i := range found {
		budgets[i] = &found[i]
	}
	return budgets, nil
}

// Amounts returns what a call can use at most, of each unit, for [Keeper.Hold].
func (k *Keeper) Amounts(ctx context.Context, tx pgx.Tx, call Call) (map[Unit]int64, error) {
	budgets, err := budgetsOf(ctx, tx, call.Caller)
	if err != nil {
		return nil, err
	}
	most, err := k.most(budgets, call)
	if err != nil {
		return nil, k.refuse(err)
	}
	return map[Unit]int64{USD: int64(most), Tokens: call.Most.Total(), Requests: 1}, nil
}

// Sent reports whether an attempt of this reservation was not released, so that the
// provider has done its work or may have.
func (r *Reservation) Sent() bool {
	r.keeper.mu.Lock()
	defer r.keeper.mu.Unlock()
	return slices.ContainsFunc(r.attempts, func(a *Attempt) bool { return a.state != released })
}

// Uncertain reports whether an attempt of this reservation is uncertain, whatever the
// policy made of it.
func (r *Reservation) Uncertain() bool {
	r.keeper.mu.Lock()
	defer r.keeper.mu.Unlock()
	for _, a := range r.attempts {
		if isDoubtful(a.reason) {
			return true
		}
	}
	return false
}

package budget

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
)

// entry is how an attempt stands when the books are written, apart from the memory
// that calls go on to change.
type entry struct {
	id       uuid.UUID
	number   int
	call     Call
	holder   uuid.UUID
	model    ai.Model
	state    state
	usage    ai.Usage
	source   ai.Source
	cost     ai.NanoUSD
	most     ai.NanoUSD
	priced   bool
	price    string
	version  string
	reason   string
	begun    time.Time
	held     []hold
	known    bool  // the database may have it
	before   state // how the database has it; empty: not at all
	doubtful bool  // it was uncertain, whatever the policy made of it
}

// hold is what an attempt holds of a budget, as the database keeps it.
type hold struct {
	Budget string `json:"b"`
	Starts int64  `json:"s"` // of the period, in microseconds since 1970
	Amount int64  `json:"a"`
	Unit   Unit   `json:"u"`
	Used   int64  `json:"-"`
}

// snapshot returns how the attempt stands. The mutex is held.
func (a *Attempt) snapshot() *entry {
	e := &entry{
		id: uuid.UUID(a.r.call.ID), number: a.number, call: a.r.call, holder: a.r.holder(), model: a.model,
		state: a.state, usage: a.usage, source: a.source, cost: a.cost, most: a.most, priced: a.price != nil,
		reason: a.reason, begun: a.dispatched, known: a.stored, doubtful: isDoubtful(a.reason),
	}
	if a.price != nil {
		e.price, e.version = a.price.Model, a.price.Version
	}
	for _, p := range a.parts {
		h := hold{Budget: p.lease.key.budget, Starts: p.lease.key.starts, Amount: p.held, Unit: p.lease.budget.Unit}
		if a.state == settled || a.state == released {
			h.Used = a.used(h.Unit)
		}
		e.holder = p.lease.key.holder // which may be older than the process's present one
		e.held = append(e.held, h)
	}
	return e
}

// counts are changes of a period.
type counts struct{ spent, reserved int64 }

// pages are what one transaction changes besides attempts.
type pages struct {
	periods map[leaseKey]counts // with the zero holder
	leases  map[leaseKey]int64
	lumps   map[uuid.UUID]map[leaseKey]int64 // to be taken off what a dead holder left
}

func (p *pages) period(b string, starts, spent, reserved int64) {
	key := leaseKey{budget: b, starts: starts}
	c := p.periods[key]
	p.periods[key] = counts{c.spent + spent, c.reserved + reserved}
}

// write puts entries into the books in tx, each once however often it is written, and
// gives back what is returned. It wants the entries of one call in their order.
//
// Rows are locked in the order attempts, holders, periods, leases, everywhere, so that
// two transactions never wait for each other in a circle.
func write(ctx context.Context, tx pgx.Tx, entries []*entry, back []returned, quiet bool) (wrote bool, err error) {
	now, holders, err := look(ctx, tx, entries, back)
	if err != nil {
		return false, fmt.Errorf("read the books: %w", err)
	}
	p := &pages{periods: make(map[leaseKey]counts), leases: make(map[leaseKey]int64), lumps: make(map[uuid.UUID]map[leaseKey]int64)}
	entries = slices.DeleteFunc(entries, func(e *entry) bool { return !e.fresh() })
	for _, e := range entries {
		p.post(e, holders[e.holder])
	}
	for _, b := range back {
		if holders[b.key.holder] {
			p.leases[b.key] -= b.amount
			p.period(b.key.budget, b.key.starts, 0, -b.amount)
		}
	}
	reached, err := p.lockPeriods(ctx, tx)
	if err != nil {
		return false, err
	}
	var batch pgx.Batch
	if err := queueAttempts(&batch, entries, now); err != nil {
		return false, err
	}
	queueLedger(&batch, entries)
	queueUsage(&batch, entries, now)
	p.queue(&batch)
	messages, err := eventsOf(entries, quiet, now)
	if err != nil {
		return false, err
	}
	messages = append(messages, reached...)
	if err := outbox.Queue(&batch, messages...); err != nil {
		return false, err
	}
	if batch.Len() == 0 {
		return false, nil
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return false, fmt.Errorf("write the books: %w", err)
	}
	return len(messages) > 0, nil
}

// fresh reports whether there is something to write: an end is written once.
func (e *entry) fresh() bool {
	switch e.before {
	case "":
		return true
	case dispatched:
		return e.state != dispatched
	case uncertain:
		return e.state == settled || e.state == released
	default: // it has ended
		return false
	}
}

// post adds what an entry changes. alive tells that its holder's leases are there.
//
//	reserved = sum of leases + sum of what open and uncertain attempts hold
//
// holds after every transaction.
func (p *pages) post(e *entry, alive bool) {
	open := e.state == dispatched || e.state == uncertain
	for _, h := range e.held {
		key := leaseKey{e.holder, h.Budget, h.Starts}
		kept := h.Amount - min(h.Used, h.Amount) // what goes back to the lease
		switch {
		case e.before == "" && alive: // it is part of the lease still
			if open {
				p.leases[key] -= h.Amount
				continue
			}
			p.leases[key] -= h.Amount - kept
			p.period(h.Budget, h.Starts, h.Used, kept-h.Amount)
		case e.before == "": // it is part of what was found when the holder was taken for dead
			if p.lumps[e.holder] == nil {
				p.lumps[e.holder] = make(map[leaseKey]int64)
			}
			p.lumps[e.holder][key] += h.Amount
			if !open {
				p.period(h.Budget, h.Starts, h.Used, -h.Amount)
			}
		case open: // dispatched becomes uncertain, and is held as it was
		case alive:
			p.leases[key] += kept
			p.period(h.Budget, h.Starts, h.Used, kept-h.Amount)
		default:
			p.period(h.Budget, h.Starts, h.Used, -h.Amount)
		}
	}
}

// look reads how the database has the entries, and which holders are alive, and locks
// both.
func look(ctx context.Context, tx pgx.Tx, entries []*entry, back []returned) (now time.Time, alive map[uuid.UUID]bool, err error) {
	var ids, holders []uuid.UUID
	for _, e := range entries {
		if e.known {
			ids = append(ids, e.id)
		}
		if !slices.Contains(holders, e.holder) {
			holders = append(holders, e.holder)
		}
	}
	for _, b := range back {
		if !slices.Contains(holders, b.key.holder) {
			holders = append(holders, b.key.holder)
		}
	}
	type attemptKey struct {
		id     uuid.UUID
		number int
	}
	states := make(map[attemptKey]state)
	alive = make(map[uuid.UUID]bool)
	var batch pgx.Batch
	if len(ids) > 0 {
		batch.Queue(`
			select call_id, attempt, state from ai_attempt where call_id = any($1)
			order by call_id, attempt for update`, ids).Query(func(rows pgx.Rows) error {
			var key attemptKey
			var s state
			_, err := pgx.ForEachRow(rows, []any{&key.id, &key.number, &s}, func() error {
				states[key] = s
				return nil
			})
			return err
		})
	}
	batch.Queue("select id from ai_holder where id = any($1) order by id for share", holders).Query(func(rows pgx.Rows) error {
		found, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		for _, id := range found {
			alive[id] = true
		}
		return err
	})
	batch.Queue("select clock_timestamp()").QueryRow(func(row pgx.Row) error { return row.Scan(&now) })
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return now, nil, err
	}
	for _, e := range entries {
		e.before = states[attemptKey{e.id, e.number}]
	}
	return now, alive, nil
}

// lockPeriods locks the periods that change, takes what late attempts have used off
// what a dead holder left, and returns the events about thresholds that are reached.
func (p *pages) lockPeriods(ctx context.Context, tx pgx.Tx) (reached []broker.Message, err error) {
	for holder, parts := range p.lumps {
		if err := p.takeOff(ctx, tx, holder, parts); err != nil {
			return nil, err
		}
	}
	if len(p.periods) == 0 {
		return nil, nil
	}
	budgets, starts := make([]string, 0, len(p.periods)), make([]time.Time, 0, len(p.periods))
	for key := range p.periods {
		budgets, starts = append(budgets, key.budget), append(starts, time.UnixMicro(key.starts))
	}
	rows, err := tx.Query(ctx, `
		select p.budget_id, p.starts_at, p.ends_at, p.spent, p.reserved, b.tenant, b.app, b.key, b.unit, b.period, b.limit_amount, b.warn_at
		from unnest($1::text[], $2::timestamptz[]) as n (budget_id, starts_at)
		join ai_period p on p.budget_id = n.budget_id and p.starts_at = n.starts_at
		left join ai_budget b on b.id = p.budget_id
		order by p.budget_id, p.starts_at for update of p`, budgets, starts)
	if err != nil {
		return nil, fmt.Errorf("lock periods: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var (
			s                              PeriodStatus
			tenant, app, key, unit, period *string
			limit                          *int64
			warn                           []int16
		)
		if err := rows.Scan(&s.Budget.ID, &s.StartsAt, &s.EndsAt, &s.Spent, &s.Reserved, &tenant, &app, &key, &unit, &period, &limit, &warn); err != nil {
			return nil, fmt.Errorf("lock periods: %w", err)
		}
		change := p.periods[leaseKey{budget: s.Budget.ID, starts: s.StartsAt.UnixMicro()}]
		if limit == nil || change.spent <= 0 || *limit == 0 {
			continue // the budget was deleted
		}
		s.Budget = Budget{ID: s.Budget.ID, Tenant: *tenant, App: *app, Key: *key, Unit: Unit(*unit), Period: Period(*period), Limit: *limit}
		before := s.Spent
		s.Spent, s.Reserved = s.Spent+change.spent, s.Reserved+change.reserved
		for _, percent := range warn {
			// In floating point, because the product may not fit an integer.
			line := float64(*limit) * float64(percent) / 100
			if float64(before) < line && float64(s.Spent) >= line {
				m, err := thresholdEvent(s, int(percent))
				if err != nil {
					return nil, err
				}
				reached = append(reached, m)
			}
		}
	}
	return reached, rows.Err()
}

// takeOff takes what attempts hold off the attempt that stands for what their holder
// had left when it was taken for dead. Where that has ended meanwhile, so has the hold.
func (p *pages) takeOff(ctx context.Context, tx pgx.Tx, holder uuid.UUID, parts map[leaseKey]int64) error {
	var id uuid.UUID
	var held []hold
	err := tx.QueryRow(ctx, `
		select call_id, held from ai_attempt
		where holder_id = $1 and operation = 'lease' and state = 'uncertain' for update`, holder).Scan(&id, &held)
	if err != nil && err != pgx.ErrNoRows { //nolint:errorlint // Scan returns it as it is
		return fmt.Errorf("read what a holder left: %w", err)
	}
	for key, amount := range parts {
		taken := int64(0)
		for i := range held {
			if held[i].Budget == key.budget && held[i].Starts == key.starts {
				taken = min(held[i].Amount, amount)
				held[i].Amount -= taken
			}
		}
		p.period(key.budget, key.starts, 0, amount-taken) // what is not reserved any more cannot be given up
	}
	if len(held) == 0 {
		return nil
	}
	if _, err = tx.Exec(ctx, "update ai_attempt set held = $2 where call_id = $1 and attempt = 1", id, held); err != nil {
		return fmt.Errorf("write what a holder left: %w", err)
	}
	return nil
}

// queue adds the statements that change periods and leases.
func (p *pages) queue(batch *pgx.Batch) {
	keys := make([]leaseKey, 0, max(len(p.periods), len(p.leases)))
	for key, c := range p.periods {
		if c != (counts{}) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, leaseKey.compare)
	if n := len(keys); n > 0 {
		budgets, starts, spent, reserved := make([]string, n), make([]time.Time, n), make([]int64, n), make([]int64, n)
		for i, key := range keys {
			budgets[i], starts[i], spent[i], reserved[i] = key.budget, time.UnixMicro(key.starts), p.periods[key].spent, p.periods[key].reserved
		}
		batch.Queue(`
			update ai_period p set spent = p.spent + n.spent, reserved = p.reserved + n.reserved
			from unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bigint[]) as n (budget_id, starts_at, spent, reserved)
			where p.budget_id = n.budget_id and p.starts_at = n.starts_at`, budgets, starts, spent, reserved)
	}
	keys = keys[:0]
	for key, amount := range p.leases {
		if amount != 0 {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, leaseKey.compare)
	if n := len(keys); n > 0 {
		holders, budgets, starts, amounts := make([]uuid.UUID, n), make([]string, n), make([]time.Time, n), make([]int64, n)
		for i, key := range keys {
			holders[i], budgets[i], starts[i], amounts[i] = key.holder, key.budget, time.UnixMicro(key.starts), p.leases[key]
		}
		batch.Queue(`
			update ai_lease l set amount = l.amount + n.amount
			from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[]) as n (holder_id, budget_id, starts_at, amount)
			where l.holder_id = n.holder_id and l.budget_id = n.budget_id and l.starts_at = n.starts_at`, holders, budgets, starts, amounts)
	}
}

func (k leaseKey) compare(other leaseKey) int {
	return cmp.Or(cmp.Compare(k.budget, other.budget), cmp.Compare(k.starts, other.starts), slices.Compare(k.holder[:], other.holder[:]))
}

func holdsJSON(held []hold) (string, error) {
	data, err := json.Marshal(held)
	return string(data), err
}

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
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/postgres"
)

// Call is what is known of a call before it is made.
type Call struct {
	// ID of the call; a fresh one when zero.
	ID     ai.CallID
	Caller ai.Caller
	// Operation is what is asked for: chat, embeddings, messages, responses or prompt.
	Operation string
	// Model is what the client asked for, such as the name of a route.
	Model string
	// Targets are all models that it may be sent to. The dearest is held.
	Targets []ai.Model
	// Most is what one attempt can use at most.
	Most ai.Usage
	// Cap is what all attempts together may cost; 0: what budgets allow.
	Cap ai.NanoUSD
	// Saga is the saga that the call is a step of, if any.
	Saga string
}

// Reservation is a call that was let through. It is safe for concurrent use, and its
// methods never wait for a database, except for a Dispatch that needs more than is
// left. Every reservation must be closed.
type Reservation struct {
	keeper  *Keeper
	call    Call
	budgets []*Budget
	parts   []part // held, and on no attempt
	closed  bool
	// attempts in the order of their dispatch, and the number of the latest.
	attempts []*Attempt
	last     int
	// durable reservations write in the caller's transactions; see [Keeper.Resume].
	durable *durable
}

// part is what is held of one budget.
type part struct {
	lease *lease
	held  int64
}

// ID returns the id of the call.
func (r *Reservation) ID() ai.CallID { return r.call.ID }

// Cost returns what the attempts have cost that were settled so far.
func (r *Reservation) Cost() (total ai.NanoUSD) {
	r.keeper.mu.Lock()
	defer r.keeper.mu.Unlock()
	for _, a := range r.attempts {
		total = total.Plus(a.cost)
	}
	return total
}

// Attempts returns how many attempts of the call were dispatched.
func (r *Reservation) Attempts() int {
	r.keeper.mu.Lock()
	defer r.keeper.mu.Unlock()
	return r.last
}

// Close ends the reservation: what is on no attempt goes back, and an attempt that has
// not ended is uncertain. Closing again does nothing, so it can be deferred.
func (r *Reservation) Close() {
	r.keeper.mu.Lock()
	defer r.keeper.mu.Unlock()
	if r.closed {
		return
	}
	r.closed = true
	for _, a := range r.attempts { // before the rest goes back, which they may add to
		if a.state == dispatched {
			a.uncertain("it was abandoned", ai.Usage{})
		}
	}
	r.keeper.giveBack(r.parts)
	r.parts = nil
}

// Attempt is one request to one model. The first of Settle, Release and Uncertain
// decides how it ends; later ones change nothing.
type Attempt struct {
	r      *Reservation
	number int
	model  ai.Model
	price  *price.Price // nil: it has none
	most   ai.NanoUSD
	parts  []part

	state      state
	usage      ai.Usage
	source     ai.Source
	cost       ai.NanoUSD
	reason     string
	dispatched time.Time

	stored bool // the database has it as dispatched
	queued bool // the books will look at it
}

// state of an attempt.
type state string

const (
	dispatched state = "dispatched"
	settled    state = "settled"
	released   state = "released"
	uncertain  state = "uncertain"
)

// Dispatch begins an attempt: call it right before the first byte leaves. What the
// call holds is used first, also what an earlier attempt has released; where that does
// not do, more is reserved, which may be refused.
func (r *Reservation) Dispatch(ctx context.Context, model ai.Model) (*Attempt, error) {
	a, err := r.begin(ctx, model)
	if err != nil || r.durable == nil {
		return a, err
	}
	err = postgres.InTx(ctx, r.keeper.pool, func(tx pgx.Tx) error {
		if err := r.durable.fence(ctx, tx); err != nil {
			return err
		}
		return r.Store(ctx, tx)
	})
	if err != nil {
		r.forget(a, errors.Is(err, postgres.ErrCommitUnknown))
		return nil, unavailable(err)
	}
	return a, nil
}

// forget takes back an attempt that was not sent because it could not be recorded. It
// is not written as released: its number may be that of an attempt of somebody else,
// who has taken the call over. If it was perhaps recorded after all, it becomes
// uncertain there, and what it holds is not handed out again.
func (r *Reservation) forget(a *Attempt, perhaps bool) {
	r.keeper.mu.Lock()
	defer r.keeper.mu.Unlock()
	r.attempts = slices.DeleteFunc(r.attempts, func(other *Attempt) bool { return other == a })
	switch {
	case perhaps:
	case r.closed:
		r.keeper.giveBack(a.parts)
	default:
		r.parts = append(r.parts, a.parts...)
	}
	if !perhaps && r.last == a.number {
		r.last--
	}
}

func (r *Reservation) begin(ctx context.Context, model ai.Model) (*Attempt, error) {
	k := r.keeper
	now := time.Now()
	a := &Attempt{r: r, model: model, state: dispatched, dispatched: now}
	if p, ok := k.config.Prices.Lookup(model, now); ok {
		a.price, a.most = p, p.Most(r.call.Most)
	} else if b := charged(r.budgets); b != nil {
		return nil, unpriced(b.ID, []string{model.String()})
	}
	k.mu.Lock()
	if r.closed {
		k.mu.Unlock()
		return nil, fmt.Errorf("dispatch call %s: it is closed", r.call.ID)
	}
	if limit := r.call.Cap; limit > 0 {
		committed := a.most
		for _, earlier := range r.attempts {
			committed = committed.Plus(earlier.committed())
		}
		if committed > limit {
			k.mu.Unlock()
			return nil, &Refusal{Code: CallCap, Unit: USD, Limit: int64(limit), Detail: fmt.Sprintf(
				"the call may cost $%s with all its attempts, and one more might bring it to $%s", limit, committed)}
		}
	}
	var parts []part
	var lacking []want
	parts, r.parts, lacking = share(r.parts, r.wants(a.most, r.last == 0))
	k.mu.Unlock()

	var more []part
	var err error
	if len(lacking) > 0 {
		more, err = k.take(ctx, r.durable, lacking)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	parts = append(parts, more...)
	if err != nil {
		if r.closed {
			k.giveBack(parts)
		} else {
			r.parts = append(r.parts, parts...)
		}
		return nil, err
	}
	if r.closed {
		k.giveBack(parts)
		return nil, fmt.Errorf("dispatch call %s: it is closed", r.call.ID)
	}
	a.parts = merge(parts)
	r.last++
	a.number = r.last
	r.attempts = append(r.attempts, a)
	k.record(a)
	return a, nil
}

// share takes what an attempt needs out of what is held, and tells what lacks. The
// mutex is held.
func share(have []part, wants []want) (parts, rest []part, lacking []want) {
	rest = have
	for _, w := range wants {
		need := w.amount
		for i := range rest {
			p := &rest[i]
			if p.lease.budget.ID != w.budget.ID || need == 0 || p.held == 0 {
				continue
			}
			taken := min(p.held, need)
			need -= taken
			p.held -= taken
			p.lease.open++
			parts = append(parts, part{p.lease, taken})
		}
		if need > 0 {
			lacking = append(lacking, want{w.budget, need})
		}
	}
	return parts, rest, lacking
}

// wants returns what an attempt needs of each budget, in the order of their ids.
func (r *Reservation) wants(most ai.NanoUSD, first bool) []want {
	wants := make([]want, 0, len(r.budgets))
	for _, b := range r.budgets {
		amount := int64(0)
		switch b.Unit {
		case USD:
			amount = int64(most)
		case Tokens:
			amount = r.call.Most.Total()
		case Requests:
			if first { // a call counts once, whatever number of attempts it takes
				amount = 1
			}
		}
		if amount > 0 {
			wants = append(wants, want{b, amount})
		}
	}
	return wants
}

// merge adds up parts of one lease.
func merge(parts []part) (merged []part) {
	for _, p := range parts {
		found := false
		for i := range merged {
			if merged[i].lease == p.lease {
				merged[i].held += p.held
				p.lease.open--
				found = true
				break
			}
		}
		if !found {
			merged = append(merged, p)
		}
	}
	return merged
}

// Number returns which attempt of its call it is, from 1.
func (a *Attempt) Number() int { return a.number }

// Settle ends the attempt with what it has used, and returns what that costs: 0 for a
// model without a price. Whoever reads the provider's answer takes care that classes
// of tokens are disjoint.
func (a *Attempt) Settle(usage ai.Usage, source ai.Source) ai.NanoUSD {
	a.r.keeper.mu.Lock()
	defer a.r.keeper.mu.Unlock()
	if a.state == dispatched {
		a.settle(usage, source)
	}
	return a.cost
}

func (a *Attempt) settle(usage ai.Usage, source ai.Source) {
	a.state, a.usage, a.source = settled, usage.Sane(), source
	if a.price != nil {
		a.cost = a.price.Cost(a.usage)
	}
	a.end()
}

// Release ends the attempt without a cost. Only call it when the request provably
// never left, such as when no connection could be made, or when the provider has
// refused it with an answer that it does not bill.
func (a *Attempt) Release(reason string) {
	a.r.keeper.mu.Lock()
	defer a.r.keeper.mu.Unlock()
	if a.state == dispatched {
		a.state, a.reason = released, clip(reason)
		a.end()
	}
}

// Uncertain ends the attempt when nobody knows what it has cost: its answer never came,
// or broke off. known is what was counted until then. The budgets' policy says what
// becomes of what is held; see [OnUncertain].
func (a *Attempt) Uncertain(reason string, known ai.Usage) {
	a.r.keeper.mu.Lock()
	defer a.r.keeper.mu.Unlock()
	if a.state == dispatched {
		a.uncertain(reason, known)
	}
}

func (a *Attempt) uncertain(reason string, known ai.Usage) {
	a.usage, a.reason, a.source = known.Sane(), doubt+clip(reason), ai.Estimated
	switch policy(a.r.budgets) {
	case Charge:
		a.state = settled
		a.cost = a.most
		a.usage = a.r.call.Most
	case Drop:
		a.state = released
	default:
		a.state = uncertain
	}
	a.r.keeper.lost.Inc()
	a.end()
}

// end hands what is not used back, and the attempt to the books.
func (a *Attempt) end() {
	if a.state != uncertain {
		for _, p := range a.parts {
			p.held -= min(a.used(p.lease.budget.Unit), p.held)
			p.lease.open++
			if a.state == released && !a.r.closed { // the next attempt has it
				a.r.parts = append(a.r.parts, p)
			} else {
				a.r.keeper.giveBack([]part{p})
			}
		}
	}
	for _, p := range a.parts {
		p.lease.open--
	}
	a.r.keeper.record(a)
}

// used returns what the attempt has used of a unit.
func (a *Attempt) used(unit Unit) int64 {
	switch unit {
	case Requests:
		return 1 // it was asked for, whatever came of it
	case USD:
		return int64(a.cost)
	default:
		if a.state == released {
			return 0
		}
		return a.usage.Total()
	}
}

// committed is what the attempt has cost or may have.
func (a *Attempt) committed() ai.NanoUSD {
	switch a.state {
	case settled:
		return a.cost
	case released:
		return 0
	default:
		return a.most
	}
}

// policy returns the most careful policy of the budgets.
func policy(budgets []*Budget) OnUncertain {
	most := Drop
	for _, b := range budgets {
		switch b.OnUncertain {
		case Hold:
			return Hold
		case Charge:
			most = Charge
		case Drop:
		}
	}
	if len(budgets) == 0 {
		return Hold
	}
	return most
}

// charged returns a budget of money among them; nil: there is none.
func charged(budgets []*Budget) *Budget {
	for _, b := range budgets {
		if b.Unit == USD {
			return b
		}
	}
	return nil
}

const reasonBytesMax = 300

// clip keeps reasons short, for they are stored.
func clip(reason string) string {
	if len(reason) > reasonBytesMax {
		return reason[:reasonBytesMax]
	}
	return reason
}

// holder returns who holds what the attempt holds.
func (r *Reservation) holder() uuid.UUID {
	if r.durable != nil {
		return r.durable.holder
	}
	return r.keeper.holder
}

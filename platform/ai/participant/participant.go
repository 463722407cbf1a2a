package participant

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	aievents "github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/consumer"
)

// Name of the participant: of its consumer and so of its events' source.
const Name = "ai"

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of the package, beside those of the budgets, the
// consumer and the outbox.
func Migrations() fs.FS { return migrations }

// Config of a [Participant]. Keeper and Caller are required; the zero value of every
// other field is its default.
type Config struct {
	Keeper *budget.Keeper
	Caller Caller
	// Workers is how many calls this process makes at once: 16 by default.
	Workers int
	// ClaimFor is how long a worker may be silent before it is taken for dead: 30 s by
	// default. A call may take longer.
	ClaimFor time.Duration
	// CallTimeout bounds one call with all its attempts: 10 min by default.
	CallTimeout time.Duration
	// TriesMax is how often a call that never left is tried: 4 by default.
	TriesMax int
	// RetryAfter is the pause before it is tried again, doubling: 2 s by default.
	RetryAfter time.Duration
	// Wake is called after each commit that wrote to the outbox; nil: nobody.
	Wake   func()
	Logger *slog.Logger
}

// Participant obeys commands about AI calls. It is safe for concurrent use.
type Participant struct {
	pool   *pgxpool.Pool
	config Config
	stored chan struct{} // capacity 1: a call is about to be stored
}

// New returns the participant on a database with its tables. The consumer that feeds
// its handlers must be called [Name], and [Participant.Run] must run beside it.
func New(pool *pgxpool.Pool, config Config) *Participant {
	orElse := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	orElse(&config.ClaimFor, 30*time.Second)
	orElse(&config.CallTimeout, 10*time.Minute)
	orElse(&config.RetryAfter, 2*time.Second)
	config.Workers, config.TriesMax = cmp.Or(config.Workers, 16), cmp.Or(config.TriesMax, 4)
	if config.Wake == nil {
		config.Wake = func() {}
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Participant{pool: pool, config: config, stored: make(chan struct{}, 1)}
}

// Handlers returns the commands that the participant obeys.
func (p *Participant) Handlers() []consumer.Handler {
	return []consumer.Handler{
		consumer.Handle(aievents.Complete, p.complete),
		consumer.Handle(aievents.ReserveBudget, p.reserve),
		consumer.Handle(aievents.ReleaseBudget, p.release),
	}
}

// heldFor is how long a call may wait and take before what it holds goes back by
// itself. Whoever ends a call gives that back much earlier.
const heldFor = 24 * time.Hour

// complete reserves what the call can cost, and leaves the call to a worker.
func (p *Participant) complete(ctx context.Context, tx pgx.Tx, q aievents.CompleteRequest) (aievents.Completion, error) {
	var none aievents.Completion
	if err := check(&q); err != nil {
		return none, consumer.Terminal(err)
	}
	plan, err := p.config.Caller.Plan(ctx, q)
	if failure, ok := errors.AsType[*Failure](err); ok {
		return none, failure.reject()
	}
	if err != nil {
		return none, fmt.Errorf("plan call: %w", err)
	}
	id := ai.NewCallID()
	saga := consumer.Command(ctx).CorrelationID
	call := callOf(id, &q, saga, &plan)
	holder, own := uuid.UUID(id), q.Reservation == ""
	if own {
		amounts, err := p.config.Keeper.Amounts(ctx, tx, call)
		if err == nil {
			_, err = p.config.Keeper.Hold(ctx, tx, holder, call.Caller, amounts, heldFor)
		}
		if err != nil {
			return none, refused(err)
		}
	} else if holder, err = p.reservation(ctx, tx, q.Reservation, q.Caller); err != nil {
		return none, err
	}
	request, err := json.Marshal(q)
	if err != nil {
		return none, consumer.Terminal(fmt.Errorf("store call: %w", err))
	}
	_, err = tx.Exec(ctx, `
		insert into ai_saga_call (id, deferred_key, saga_id, state, request, holder_id, own_hold, due_at)
		values ($1, $2, $3, 'reserved', $4, $5, $6, clock_timestamp())`,
		uuid.UUID(id), consumer.DeferredKey(ctx), saga, string(request), holder, own)
	if err != nil {
		return none, fmt.Errorf("store call: %w", err)
	}
	p.announce()
	return none, consumer.ErrDeferred
}

// refused turns a refusal of the books into a rejection; other errors stay.
func refused(err error) error {
	refusal, ok := errors.AsType[*budget.Refusal](err)
	if !ok {
		return err
	}
	failure := rejectionOf(refusal)
	if failure.Again {
		return err
	}
	return failure.reject()
}

// reservation finds what a saga has put by, and refuses that of somebody else.
func (p *Participant) reservation(ctx context.Context, tx pgx.Tx, text string, caller aievents.Caller) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return id, consumer.Terminal(fmt.Errorf("reservation %q: %w", text, err))
	}
	var owner aievents.Caller
	err = tx.QueryRow(ctx, "select tenant, app, key from ai_holder where id = $1 and kind = 'saga' and expires_at > clock_timestamp()", id).
		Scan(&owner.Tenant, &owner.App, &owner.Key)
	switch {
	case errors.Is(err, pgx.ErrNoRows) || err == nil && owner != caller:
		return id, events.Reject(aievents.BudgetExhausted, "the reservation %s has been released or has expired", id)
	case err != nil:
		return id, fmt.Errorf("find reservation %s: %w", id, err)
	}
	return id, nil
}

// reserve puts money by for a saga.
func (p *Participant) reserve(ctx context.Context, tx pgx.Tx, q aievents.ReserveBudgetRequest) (aievents.BudgetReservation, error) {
	var none aievents.BudgetReservation
	id, err := uuid.Parse(q.Reservation)
	if err != nil || q.NanoUSD <= 0 || q.Tokens < 0 || q.Calls < 0 || q.Seconds < 0 || q.Caller.Tenant == "" {
		return none, consumer.Terminal(fmt.Errorf("%w: reservation %q of %d for tenant %q", events.ErrInvalid, q.Reservation, q.NanoUSD, q.Caller.Tenant))
	}
	amounts := map[budget.Unit]int64{budget.USD: q.NanoUSD, budget.Tokens: q.Tokens, budget.Requests: max(q.Calls, 1)}
	within := time.Duration(cmp.Or(q.Seconds, 3600)) * time.Second
	budgets, err := p.config.Keeper.Hold(ctx, tx, id, ai.Caller(q.Caller), amounts, within)
	if err != nil {
		return none, refused(err)
	}
	err = consumer.Emit(ctx, aievents.Reserved, q.Reservation, aievents.BudgetHold{Reservation: q.Reservation, Caller: q.Caller, NanoUSD: q.NanoUSD})
	return aievents.BudgetReservation{Reservation: q.Reservation, Budgets: budgets}, err
}

// release gives back what is left of what a saga has put by.
func (p *Participant) release(ctx context.Context, tx pgx.Tx, q aievents.ReleaseBudgetRequest) (events.None, error) {
	id, err := uuid.Parse(q.Reservation)
	if err != nil {
		return events.None{}, consumer.Terminal(fmt.Errorf("reservation %q: %w", q.Reservation, err))
	}
	hold := aievents.BudgetHold{Reservation: q.Reservation}
	err = tx.QueryRow(ctx, `
		select h.tenant, h.app, h.key, coalesce(max(l.amount) filter (where b.unit = 'usd'), 0)
		from ai_holder h left join ai_lease l on l.holder_id = h.id left join ai_budget b on b.id = l.budget_id
		where h.id = $1 and h.kind = 'saga' group by h.id`, id).Scan(&hold.Caller.Tenant, &hold.Caller.App, &hold.Caller.Key, &hold.NanoUSD)
	switch {
	case errors.Is(err, pgx.ErrNoRows): // it is gone already
		return events.None{}, nil
	case err != nil:
		return events.None{}, fmt.Errorf("release reservation %s: %w", id, err)
	}
	if _, err := p.config.Keeper.Unhold(ctx, tx, id); err != nil {
		return events.None{}, err
	}
	return events.None{}, consumer.Emit(ctx, aievents.Released, q.Reservation, hold)
}

// announce tells Run that a call is about to be stored.
func (p *Participant) announce() {
	select {
	case p.stored <- struct{}{}:
	default:
	}
}

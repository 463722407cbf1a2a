package participant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	aievents "github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/postgres"
)

// Limits of the workers.
const (
	restMin      = time.Millisecond
	restMax      = time.Second // also what a call waits for whose process has died, once its claim has ended
	storeTimeout = 30 * time.Second
	retryRest    = 500 * time.Millisecond
	keepFor      = 7 * 24 * time.Hour // calls that have ended
	forgetEvery  = time.Hour
)

// Run makes the calls that are owed, until ctx ends, and waits for those it has begun.
// Any number of processes may run it.
func (p *Participant) Run(ctx context.Context) error {
	var calls sync.WaitGroup
	defer calls.Wait()
	free := make(chan struct{}, p.config.Workers)
	rest := restMax
	forgotten := time.Time{}
	for ctx.Err() == nil {
		if time.Since(forgotten) > forgetEvery {
			forgotten = time.Now()
			if err := p.forget(context.WithoutCancel(ctx)); err != nil {
				p.config.Logger.WarnContext(ctx, "old calls could not be forgotten", "error", err)
			}
		}
		select {
		case free <- struct{}{}: // a worker
		case <-ctx.Done():
			return nil
		}
		c, err := p.claim(context.WithoutCancel(ctx))
		if err != nil {
			p.config.Logger.WarnContext(ctx, "calls could not be looked for and are looked for again", "error", err)
		}
		if c != nil {
			rest = restMin
			calls.Go(func() {
				defer func() { <-free }()
				p.work(context.WithoutCancel(ctx), c) //nolint:contextcheck // what has begun is finished
			})
			continue
		}
		<-free
		select {
		case <-p.stored:
			rest = restMin // it commits after this moment, so look again and again, soon at first
		case <-time.After(rest):
			rest = min(2*rest, restMax)
		case <-ctx.Done():
		}
	}
	return nil
}

// claimed is a call that this process makes.
type claimed struct {
	id      ai.CallID
	claim   uuid.UUID // tells this claim from a later one, be it of the same process
	key     uuid.UUID
	saga    string
	request aievents.CompleteRequest
	holder  uuid.UUID
	own     bool
	tries   int
	orphan  bool // whoever had it before has died
}

// claim takes the call that is due for longest; nil: there is none.
func (p *Participant) claim(ctx context.Context) (*claimed, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	c := &claimed{claim: uuid.New()}
	var id uuid.UUID
	err := p.pool.QueryRow(ctx, `
		with due as (
			select id, claimed_by is not null as orphan from ai_saga_call
			where due_at <= now() and (claimed_until is null or claimed_until < now())
			order by due_at limit 1
			for update skip locked
		)
		update ai_saga_call c set claimed_by = $1, claimed_until = clock_timestamp() + $2::interval, tries = c.tries + 1
		from due where c.id = due.id
		returning c.id, c.deferred_key, c.saga_id, c.request, c.holder_id, c.own_hold, c.tries, due.orphan`,
		c.claim, p.config.ClaimFor).Scan(&id, &c.key, &c.saga, &c.request, &c.holder, &c.own, &c.tries, &c.orphan)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claim a call: %w", err)
	}
	c.id = ai.CallID(id)
	return c, nil
}

// work makes one call and stores what came of it.
func (p *Participant) work(ctx context.Context, c *claimed) {
	stop := p.hold(ctx, c)
	defer stop()
	var (
		res    *budget.Reservation
		answer Answer
		failed error
	)
	if c.orphan {
		uncertain, err := p.giveUp(ctx, c)
		if err != nil || uncertain {
			if err != nil {
				p.config.Logger.WarnContext(ctx, "call of a worker that has died could not be ended and is tried again", "call", c.id.String(), "error", err)
			}
			return
		}
	}
	plan, failed := p.config.Caller.Plan(ctx, c.request)
	if failed == nil {
		res, failed = p.config.Keeper.Resume(ctx, c.holder, callOf(c.id, &c.request, c.saga, &plan), func(ctx context.Context, tx pgx.Tx) error {
			mine, err := p.lock(ctx, tx, c)
			if err == nil && !mine {
				err = errTaken
			}
			return err
		})
	}
	if failed == nil {
		own, cancel := context.WithTimeout(ctx, p.config.CallTimeout)
		answer, failed = plan.Do(own, res)
		cancel()
		res.Close()
	}
	// The result exists nowhere else, so that a database that is away is waited for, as
	// long as nobody else takes the call.
	for limit := time.Now().Add(p.config.CallTimeout); ; time.Sleep(retryRest) {
		err := p.end(ctx, c, res, answer, failed)
		if err == nil {
			p.config.Wake()
			return
		}
		p.config.Logger.WarnContext(ctx, "result of a call could not be stored and is tried again", "call", c.id.String(), "error", err)
		if time.Now().After(limit) {
			return
		}
	}
}

// hold keeps the claim until it is stopped.
func (p *Participant) hold(ctx context.Context, c *claimed) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var beat sync.WaitGroup
	beat.Go(func() {
		for {
			select {
			case <-time.After(p.config.ClaimFor / 3):
			case <-ctx.Done():
				return
			}
			_, err := p.pool.Exec(ctx, `
				update ai_saga_call set claimed_until = clock_timestamp() + $3::interval
				where id = $1 and claimed_by = $2 and due_at is not null`, uuid.UUID(c.id), c.claim, p.config.ClaimFor)
			if err != nil && ctx.Err() == nil {
				p.config.Logger.WarnContext(ctx, "claim of a call could not be renewed", "call", c.id.String(), "error", err)
			}
		}
	})
	return func() {
		cancel()
		beat.Wait()
	}
}

// giveUp ends a call whose worker has died after it had sent it, and reports whether
// it had.
func (p *Participant) giveUp(ctx context.Context, c *claimed) (uncertain bool, err error) {
	err = p.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if mine, err := p.lock(ctx, tx, c); err != nil || !mine {
			uncertain = true // it is another one's, or has ended
			return err
		}
		if _, err := p.config.Keeper.GiveUp(ctx, tx, c.id, "the worker that made the call has died"); err != nil {
			return err
		}
		// Attempts may be uncertain already, made so by whoever looks after the books.
		err := tx.QueryRow(ctx, `
			select exists (select from ai_attempt where call_id = $1 and (state = 'uncertain' or reason like 'uncertain:%'))`,
			uuid.UUID(c.id)).Scan(&uncertain)
		if err != nil || !uncertain {
			return err
		}
		return p.finish(ctx, tx, c, "uncertain", aievents.Completion{}, &Failure{
			Code: aievents.Uncertain, Message: "the process that made the call has died, and nobody knows whether the provider was asked",
		})
	})
	if err == nil && uncertain {
		p.config.Wake()
	}
	return uncertain, err
}

// end stores what came of a call: books, reply and events in one transaction.
func (p *Participant) end(ctx context.Context, c *claimed, res *budget.Reservation, answer Answer, failed error) error {
	return p.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		mine, err := p.lock(ctx, tx, c)
		if err != nil {
			return err
		}
		if res != nil { // also when the call is another one's by now: what was spent is spent
			if err := res.Store(ctx, tx); err != nil {
				return err
			}
		}
		if !mine {
			return nil
		}
		if failed == nil {
			return p.finish(ctx, tx, c, "settled", aievents.Completion{
				CallID: c.id.String(), Provider: answer.Model.Provider, Model: answer.Model.Name, Body: answer.Body, Output: answer.Output,
				Attempts: res.Attempts(), Usage: aievents.Usage(answer.Usage), CostNano: int64(res.Cost()),
			}, nil)
		}
		failure, state := p.judge(ctx, c, res, failed)
		if failure.Again && state == "released" && c.tries < p.config.TriesMax {
			pause := max(p.config.RetryAfter<<(c.tries-1), failure.RetryAfter)
			_, err := tx.Exec(ctx, `
				update ai_saga_call set state = 'reserved', due_at = clock_timestamp() + $2::interval, claimed_by = null, claimed_until = null
				where id = $1`, uuid.UUID(c.id), pause)
			return err
		}
		return p.finish(ctx, tx, c, state, aievents.Completion{}, failure)
	})
}

// judge tells what a call ends with that gave no answer. Only what was released may be
// tried again.
func (p *Participant) judge(ctx context.Context, c *claimed, res *budget.Reservation, failed error) (*Failure, string) {
	if res != nil && res.Uncertain() {
		return &Failure{Code: aievents.Uncertain, Message: "nobody knows whether the provider has done the call"}, "uncertain"
	}
	state := "released"
	if res != nil && res.Sent() { // such as an output that no repair has made valid
		state = "settled"
	}
	if refusal, ok := errors.AsType[*budget.Refusal](failed); ok {
		return rejectionOf(refusal), state
	}
	if failure, ok := errors.AsType[*Failure](failed); ok {
		return failure, state
	}
	p.config.Logger.WarnContext(ctx, "call failed", "call", c.id.String(), "error", failed)
	return &Failure{Code: aievents.CallUnavailable, Message: "no provider could be had", Again: true}, state
}

// finish sends the reply, gives back what is left, and ends the call.
func (p *Participant) finish(ctx context.Context, tx pgx.Tx, c *claimed, state string, reply aievents.Completion, failure *Failure) error {
	var rejected error
	if failure != nil {
		rejected = failure.reject()
	} else if data, err := json.Marshal(reply); err != nil || len(data) > broker.MessageBytesMax {
		rejected = events.Reject(aievents.CallRefused, "the answer has %d bytes, and a reply at most %d", len(data), broker.MessageBytesMax)
	}
	err := consumer.Reply(ctx, tx, Name, aievents.Complete, c.key, reply, rejected)
	if err != nil && !errors.Is(err, consumer.ErrNotDeferred) { // the saga may have given up waiting
		return err
	}
	if c.own {
		if _, err := p.config.Keeper.Unhold(ctx, tx, c.holder); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, `
		update ai_saga_call set state = $2, due_at = null, ended_at = clock_timestamp(), request = jsonb_build_object('caller', request->'caller') where id = $1`,
		uuid.UUID(c.id), state)
	if err != nil {
		return fmt.Errorf("end call: %w", err)
	}
	return nil
}

// errTaken means that this process was taken for dead, and that another claim on the
// call has followed: nothing may be sent any more.
var errTaken = errors.New("the call was taken over by another worker")

// lock reports whether the claim is the latest, and keeps it so until tx ends.
func (p *Participant) lock(ctx context.Context, tx pgx.Tx, c *claimed) (mine bool, err error) {
	err = tx.QueryRow(ctx, "select claimed_by is not distinct from $2 and due_at is not null from ai_saga_call where id = $1 for update", uuid.UUID(c.id), c.claim).Scan(&mine)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock call: %w", err)
	}
	return mine, nil
}

func (p *Participant) inTx(ctx context.Context, do func(ctx context.Context, tx pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return postgres.InTx(ctx, p.pool, func(tx pgx.Tx) error { return do(ctx, tx) })
}

// forget deletes calls that ended long ago. Their books stay.
func (p *Participant) forget(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	_, err := p.pool.Exec(ctx, `
		delete from ai_saga_call where id in (
			select id from ai_saga_call where ended_at < clock_timestamp() - $1::interval order by ended_at limit 10000)`, keepFor)
	return err
}

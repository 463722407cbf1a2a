package participant_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	aievents "github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/participant"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/postgres"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

var (
	model = ai.Model{Provider: price.Simulated, Name: "m"}
	most  = ai.Usage{Input: 1000, Output: 1000}
)

const mostCost = 2_000_000 // at the simulated provider's list prices

// provider answers as the body says, and counts what reaches it.
type provider struct {
	asked  atomic.Int64
	answer func(ctx context.Context, n int64, res *budget.Reservation) (participant.Answer, error)
}

func (p *provider) Plan(_ context.Context, q aievents.CompleteRequest) (participant.Plan, error) {
	if q.Model == "none" {
		return participant.Plan{}, &participant.Failure{Code: aievents.CallRefused, Message: "there is no model none"}
	}
	return participant.Plan{
		Targets: []ai.Model{model}, Most: most,
		Do: func(ctx context.Context, res *budget.Reservation) (participant.Answer, error) {
			return p.answer(ctx, p.asked.Add(1), res)
		},
	}, nil
}

// answers settles and answers.
func answers(ctx context.Context, n int64, res *budget.Reservation) (participant.Answer, error) {
	a, err := res.Dispatch(ctx, model)
	if err != nil {
		return participant.Answer{}, err
	}
	usage := ai.Usage{Input: 10, Output: 20}
	a.Settle(usage, ai.Reported)
	return participant.Answer{Model: model, Usage: usage, Body: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n))}, nil
}

type rig struct {
	*consumertest.Rig
	*provider
	keeper *budget.Keeper
	worker *participant.Participant
}

func parts(t *testing.T, pool *pgxpool.Pool, caller participant.Caller) (*budget.Keeper, *participant.Participant) {
	t.Helper()
	prices, err := price.New(price.Overlay{})
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := budget.New(pool, budget.Config{Prices: prices, Reload: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return keeper, participant.New(pool, participant.Config{Keeper: keeper, Caller: caller, ClaimFor: time.Hour, RetryAfter: 5 * time.Millisecond})
}

func setup(t *testing.T, limit int64) *rig {
	t.Helper()
	r := idle(t, limit)
	r.Run(r.worker.Run)
	return r
}

// idle takes commands in, and makes no calls.
func idle(t *testing.T, limit int64) *rig {
	t.Helper()
	r := &rig{provider: &provider{answer: answers}}
	r.Rig = consumertest.New(t, consumertest.Config{
		Name: participant.Name, Migrations: budget.Migrations(),
		Handlers: func(c *consumertest.Rig) []consumer.Handler {
			if err := postgres.Migrate(t.Context(), c.Pool, postgres.MigrationSet{Owner: "ai_call", FS: participant.Migrations()}); err != nil {
				t.Fatal(err)
			}
			if err := c.Broker.Ensure(t.Context(), budget.Topics()...); err != nil {
				t.Fatal(err)
			}
			r.keeper, r.worker = parts(t, c.Pool, r.provider)
			return r.worker.Handlers()
		},
	})
	r.Run(r.keeper.Run)
	b := budget.Budget{ID: "m", Tenant: "acme", Unit: budget.USD, Period: budget.Month, Limit: limit}
	if err := r.keeper.Put(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return r
}

func request() aievents.CompleteRequest {
	return aievents.CompleteRequest{Caller: aievents.Caller{Tenant: "acme"}, Model: "smart", Body: json.RawMessage(`{"messages":[]}`)}
}

func (r *rig) complete(q aievents.CompleteRequest) (aievents.Completion, events.Code) {
	r.T.Helper()
	return consumertest.Do[aievents.Completion](r.Rig, consumertest.Command(r.T, aievents.Complete, uuid.NewString(), q))
}

// lapse ends all claims, as when the workers that have them are silent for too long.
func (r *rig) lapse() {
	r.T.Helper()
	if _, err := r.Pool.Exec(r.T.Context(), "update ai_saga_call set claimed_until = now() - interval '1 s' where claimed_until is not null"); err != nil {
		r.T.Fatal(err)
	}
}

// standing returns what is spent and reserved of the budget.
func (r *rig) standing() (spent, reserved int64) {
	r.T.Helper()
	return consumertest.Read[int64](r.Rig, "select coalesce(sum(spent), 0)::bigint from ai_period"), consumertest.Read[int64](r.Rig, "select coalesce(sum(reserved), 0)::bigint from ai_period")
}

func TestACallIsMadeOnceHoweverOftenItIsCommanded(t *testing.T) {
	t.Parallel()
	r := setup(t, 10*mostCost)
	saga := uuid.NewString()
	command := consumertest.Command(t, aievents.Complete, saga, request())
	first, code := consumertest.Do[aievents.Completion](r.Rig, command)
	if code != "" || first.CostNano != 10*500+20*1500 || first.Attempts != 1 || string(first.Body) != `{"n":1}` || first.Provider != price.Simulated {
		t.Fatalf("%+v, %s", first, code)
	}
	again, code := consumertest.Do[aievents.Completion](r.Rig, command)
	if code != "" || again.CallID != first.CallID || string(again.Body) != string(first.Body) || r.asked.Load() != 1 {
		t.Errorf("%+v, %s, and the provider was asked %d times", again, code, r.asked.Load())
	}
	if spent, reserved := r.standing(); spent != first.CostNano || reserved != 0 {
		t.Errorf("%d is spent and %d reserved", spent, reserved)
	}
	if got := consumertest.Read[string](r.Rig, "select saga_id || ' ' || operation || ' ' || state from ai_attempt where call_id = $1", first.CallID); got != saga+" chat settled" {
		t.Errorf("the books have %s", got)
	}
	if got := consumertest.Read[int64](r.Rig, "select sum(amount)::bigint from ai_ledger where call_id = $1", first.CallID); got != first.CostNano {
		t.Errorf("the ledger has %d", got)
	}
	if got := consumertest.Read[string](r.Rig, "select state || request::text from ai_saga_call"); got != `settled{"caller": {"tenant": "acme"}}` {
		t.Errorf("the call is kept as %s", got)
	}
}

func TestWhatCannotBePaidForIsRejected(t *testing.T) {
	t.Parallel()
	r := setup(t, mostCost-1)
	if _, code := r.complete(request()); code != aievents.BudgetExhausted || r.asked.Load() != 0 {
		t.Errorf("%s, and the provider was asked %d times", code, r.asked.Load())
	}
	q := request()
	q.Model = "none"
	if _, code := r.complete(q); code != aievents.CallRefused {
		t.Error(code)
	}
	if spent, reserved := r.standing(); spent != 0 || reserved != 0 {
		t.Errorf("%d is spent and %d reserved", spent, reserved)
	}
}

func TestACallThatNeverLeftIsTriedAgain(t *testing.T) {
	t.Parallel()
	r := setup(t, 2*mostCost-1) // for one attempt at a time
	r.answer = func(ctx context.Context, n int64, res *budget.Reservation) (participant.Answer, error) {
		if n == 3 {
			return answers(ctx, n, res)
		}
		a, err := res.Dispatch(ctx, model)
		if err != nil {
			return participant.Answer{}, err
		}
		a.Release("no connection")
		return participant.Answer{}, &participant.Failure{Code: aievents.CallUnavailable, Message: "no connection", Again: true}
	}
	reply, code := r.complete(request())
	if code != "" || string(reply.Body) != `{"n":3}` || reply.Attempts != 3 {
		t.Errorf("%+v, %s", reply, code)
	}
	if got := consumertest.Read[string](r.Rig, "select string_agg(attempt || ' ' || state, ', ' order by attempt) from ai_attempt"); got != "1 released, 2 released, 3 settled" {
		t.Errorf("the books have the attempts %s", got)
	}
	if got := consumertest.Read[int64](r.Rig, "select coalesce(sum(amount), 0)::bigint from ai_ledger"); got != reply.CostNano {
		t.Errorf("the ledger has %d of the %d that the call has cost", got, reply.CostNano)
	}
	if spent, reserved := r.standing(); spent != reply.CostNano || reserved != 0 {
		t.Errorf("%d is spent and %d reserved", spent, reserved)
	}
	r.answer = func(context.Context, int64, *budget.Reservation) (participant.Answer, error) {
		return participant.Answer{}, errors.New("broken")
	}
	if _, code := r.complete(request()); code != aievents.CallUnavailable || r.asked.Load() != 3+4 {
		t.Errorf("%s after %d tries", code, r.asked.Load())
	}
	if _, reserved := r.standing(); reserved != 0 {
		t.Errorf("%d stays reserved", reserved)
	}
}

// A worker that is slow before it sends the call is taken for dead, and wakes up when
// another one makes the call already, or has made it.
func TestAWorkerThatWasTakenForDeadSendsNothing(t *testing.T) {
	t.Parallel()
	for name, later := range map[string]bool{"while the call is made": false, "when the call has been made": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := idle(t, 10*mostCost)
			slow, wake := make(chan struct{}), make(chan struct{})
			sent, ended, dispatched := make(chan struct{}), make(chan error, 1), make(chan struct{})
			r.answer = func(ctx context.Context, n int64, res *budget.Reservation) (participant.Answer, error) {
				if n == 1 {
					close(slow)
					<-wake
					_, err := answers(ctx, n, res)
					ended <- err
					return participant.Answer{}, err
				}
				a, err := res.Dispatch(ctx, model)
				if err != nil {
					return participant.Answer{}, err
				}
				close(dispatched)
				if !later {
					<-sent
				}
				a.Settle(ai.Usage{Input: 10, Output: 20}, ai.Reported)
				return participant.Answer{Model: model, Body: json.RawMessage(`{"n":2}`)}, nil
			}
			command := consumertest.Command(t, aievents.Complete, uuid.NewString(), request())
			r.Send(command)
			r.Run(r.worker.Run)
			<-slow
			r.lapse()
			<-dispatched
			if later {
				r.Await(1, "select count(*) from ai_saga_call where ended_at is not null")
			}
			close(wake)
			if err := <-ended; err == nil {
				t.Error("the slow worker has sent the call again")
			}
			close(sent)
			reply, code := consumertest.Answer[aievents.Completion](r.Rig, command)
			if code != "" || string(reply.Body) != `{"n":2}` || reply.Attempts != 1 {
				t.Errorf("%+v, %s", reply, code)
			}
			if got := consumertest.Read[string](r.Rig, "select string_agg(attempt || ' ' || state, ', ') from ai_attempt"); got != "1 settled" {
				t.Errorf("the books have the attempts %s", got)
			}
			if spent, reserved := r.standing(); spent != reply.CostNano || reserved != 0 {
				t.Errorf("%d is spent and %d reserved", spent, reserved)
			}
		})
	}
}

// What was paid for is not paid for again, whatever is wrong with the answer.
func TestACallThatWasPaidForIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	r := setup(t, 100*mostCost)
	r.answer = func(ctx context.Context, _ int64, res *budget.Reservation) (participant.Answer, error) {
		a, err := res.Dispatch(ctx, model)
		if err != nil {
			return participant.Answer{}, err
		}
		a.Settle(most, ai.Reported)
		return participant.Answer{}, &participant.Failure{Code: aievents.CallUnavailable, Message: "it broke", Again: true}
	}
	if _, code := r.complete(request()); code != aievents.CallUnavailable || r.asked.Load() != 1 {
		t.Errorf("%s, and the provider was asked %d times", code, r.asked.Load())
	}
	if spent, reserved := r.standing(); spent != mostCost || reserved != 0 {
		t.Errorf("%d is spent and %d reserved", spent, reserved)
	}
}

func TestACallThatNobodyKnowsOfStaysHeld(t *testing.T) {
	t.Parallel()
	r := setup(t, 10*mostCost)
	r.answer = func(ctx context.Context, _ int64, res *budget.Reservation) (participant.Answer, error) {
		a, err := res.Dispatch(ctx, model)
		if err == nil {
			a.Uncertain("timeout", ai.Usage{})
		}
		return participant.Answer{}, &participant.Failure{Code: aievents.CallUnavailable, Message: "timeout", Again: true}
	}
	if _, code := r.complete(request()); code != aievents.Uncertain || r.asked.Load() != 1 {
		t.Errorf("%s, and the provider was asked %d times", code, r.asked.Load())
	}
	if spent, reserved := r.standing(); spent != 0 || reserved != mostCost {
		t.Errorf("%d is spent and %d reserved", spent, reserved)
	}
}

func TestMoneyPutByForASaga(t *testing.T) {
	t.Parallel()
	r := setup(t, 10*mostCost)
	saga := uuid.NewString()
	hold := aievents.ReserveBudgetRequest{Reservation: saga, Caller: request().Caller, NanoUSD: 9 * mostCost}
	reserve := consumertest.Command(t, aievents.ReserveBudget, saga, hold)
	if got, code := consumertest.Do[aievents.BudgetReservation](r.Rig, reserve); code != "" || got.Budgets != 1 {
		t.Fatalf("%+v, %s", got, code)
	}
	hold.Reservation = uuid.NewString()
	if _, code := consumertest.Do[aievents.BudgetReservation](r.Rig, consumertest.Command(t, aievents.ReserveBudget, saga, hold)); code != aievents.BudgetExhausted {
		t.Error(code)
	}
	q := request()
	q.Reservation = saga
	first, code := r.complete(q)
	if code != "" {
		t.Fatal(code)
	}
	if spent, reserved := r.standing(); spent != first.CostNano || spent+reserved != 9*mostCost {
		t.Errorf("%d is spent and %d reserved", spent, reserved)
	}
	foreign := q
	foreign.Caller.Tenant = "other"
	if _, code := r.complete(foreign); code != aievents.BudgetExhausted {
		t.Errorf("another tenant uses the reservation: %s", code)
	}
	release := consumertest.Command(t, aievents.ReleaseBudget, saga, aievents.ReleaseBudgetRequest{Reservation: saga})
	release.Undoes = reserve.ID
	if _, code := consumertest.Do[events.None](r.Rig, release); code != "" {
		t.Fatal(code)
	}
	if _, reserved := r.standing(); reserved != 0 {
		t.Errorf("%d stays reserved", reserved)
	}
	if _, code := r.complete(q); code != aievents.BudgetExhausted {
		t.Errorf("a reservation that is released pays: %s", code)
	}
	if r.asked.Load() != 1 {
		t.Errorf("the provider was asked %d times", r.asked.Load())
	}
}

// TestKillBetweenTheAnswerAndTheCommit kills the process of the worker right there.
func TestKillBetweenTheAnswerAndTheCommit(t *testing.T) {
	const variable = "AI_PARTICIPANT_CHILD"
	if url := os.Getenv(variable); url != "" {
		child(t, url)
		return
	}
	t.Parallel()
	r := idle(t, 10*mostCost)
	other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKillBetweenTheAnswerAndTheCommit$", "-test.timeout=60s")
	other.Env = append(os.Environ(), variable+"="+r.Pool.Config().ConnString())
	var said bytes.Buffer
	pipe, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	other.Stderr = &said
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 9)
	if _, err := pipe.Read(line); err != nil || !strings.HasPrefix(string(line), "ready") {
		t.Fatalf("%q, %v: %s", line, err, said.String())
	}
	command := consumertest.Command(t, aievents.Complete, uuid.NewString(), request())
	r.Send(command)
	if _, err := pipe.Read(line); err != nil || !strings.HasPrefix(string(line), "answered") {
		t.Fatalf("%q, %v: %s", line, err, said.String())
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait()
	r.lapse()
	r.Run(r.worker.Run)
	_, code := consumertest.Answer[aievents.Completion](r.Rig, command)
	if code != aievents.Uncertain || r.asked.Load() != 0 {
		t.Errorf("%s, and the provider was asked %d times more", code, r.asked.Load())
	}
	if spent, reserved := r.standing(); spent != 0 || reserved != mostCost {
		t.Errorf("%d is spent and %d reserved, want what the call may have cost to be held", spent, reserved)
	}
	if got := consumertest.Read[string](r.Rig, "select string_agg(state, ' ') from ai_attempt"); got != "uncertain" {
		t.Errorf("the attempts are %s", got)
	}
}

// child makes calls and hangs when the provider has answered.
func child(t *testing.T, url string) {
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{answer: func(ctx context.Context, n int64, res *budget.Reservation) (participant.Answer, error) {
		if _, err := answers(ctx, n, res); err != nil {
			return participant.Answer{}, err
		}
		fmt.Println("answered")
		select {}
	}}
	keeper, worker := parts(t, pool, p)
	go keeper.Run(t.Context())
	fmt.Println("ready...")
	if err := worker.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

package saga_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/saga"
)

func TestNewEngineReportsEveryDefinitionAtOnce(t *testing.T) {
	bad, other := standard(), standard()
	bad.Name = "Bad"
	other.Name = "other"
	_, err := saga.NewEngine(nil, saga.EngineConfig{}, bad, standard(), standard(), other)
	if err == nil {
		t.Fatal("it was made")
	}
	for _, want := range []string{
		`"Bad": the name must be`, `saga "trip" version 1 is defined twice`, `sagas "trip" and "other" both start with test.trip.begin.v1`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say: %s", err, want)
		}
	}
	e, err := saga.NewEngine(nil, saga.EngineConfig{}, standard())
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Topics(); !slices.Equal(got, []events.Topic{events.Replies, events.Signals, begin.Topic()}) {
		t.Errorf("Topics() = %v", got)
	}
}

func TestEngineWritesABatchInOneTransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	all := ids(40)
	b.process(starts(t, all...)...)
	deliveries := starts(t, ids(10)...)
	for i, id := range all {
		switch i % 4 {
		case 0:
			deliveries = append(deliveries, no(t, id, "alpha"))
		default:
			deliveries = append(deliveries, ok(t, id, "alpha"))
		}
	}
	b.exec("delete from outbox")
	b.process(deliveries...)
	if n := one[int](b, "select count(*) from saga where revision = 2"); n != 40 {
		t.Errorf("%d sagas have moved, want 40", n)
	}
	// xmin is the transaction that wrote a row.
	n := one[int](b, `
		select count(distinct xmin::text) from (
			select xmin from saga union all select xmin from outbox union all
			select xmin from saga_live where saga_id in (select id from saga where revision = 1) union all
			select xmin from consumer_position where handled > 0
		) as written`)
	if n != 1 {
		t.Errorf("%d transactions wrote the batch", n)
	}
	for i, id := range all {
		if i%4 == 0 {
			b.want(id, saga.Compensated, 2)
			b.wantSent(id, "trip.compensated")
		} else {
			b.want(id, saga.Running, 2)
			b.wantSent(id, "beta.do")
		}
	}
}

func TestEngineSendsACommand(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := ids(1)[0]
	start := startOf(t, id)
	start.Event.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	b.process(start)
	sent := b.outbox()
	if len(sent) != 1 {
		t.Fatalf("sent %+v", sent)
	}
	got, e := sent[0], sent[0].Event
	if got.Topic != doA.Topic() || !strings.HasPrefix(got.PublishID, saga.DoID(id, "alpha")+".") {
		t.Errorf("letter %+v", got)
	}
	request, err := doA.Request(&e)
	if err != nil || request.Trip != id || e.ID != saga.DoID(id, "alpha") || e.Type != doA.Type() || e.Source != "/sagas/trip" || e.Subject != id ||
		e.CorrelationID != id || e.PartitionKey != id || e.CausationID != id || e.ReplyTo != string(events.Replies) || e.Undoes != "" ||
		!strings.HasPrefix(e.TraceParent, "00-0af7651916cd43dd8448eb211c80319c-") {
		t.Errorf("command %+v, %v", e, err)
	}
	b.process(ok(t, id, "alpha"))
	b.exec("delete from outbox")
	b.process(no(t, id, "beta"))
	e = b.outbox()[0].Event
	if e.ID != saga.UndoID(id, "alpha") || e.Undoes != saga.DoID(id, "alpha") || e.Type != undoA.Type() ||
		e.CausationID != events.DeriveID(saga.DoID(id, "beta"), "reply") {
		t.Errorf("compensation %+v", e)
	}
	in, _ := b.stored(id)
	if sent, err := time.Parse(time.RFC3339Nano, e.Extension(events.UndoesTime)); err != nil || !sent.Equal(in.CreatedAt) {
		t.Errorf("it tells that the command was sent after %s (%v), want %s", sent, err, in.CreatedAt)
	}
}

func TestEngineIgnoresASecondStart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id, other := ids(1)[0], ids(1)[0]
	b.process(startOf(t, id), startOf(t, id))
	b.want(id, saga.Running, 1)
	b.process(startOf(t, other), startOf(t, id), ok(t, id, "alpha")) // the batch goes on
	b.want(id, saga.Running, 2)
	b.want(other, saga.Running, 1)
	b.advance(id, "beta", "gamma", "delta")
	b.process(startOf(t, id)) // even after the end
	b.want(id, saga.Completed, 5)
	b.wantSent(id, "alpha.do beta.do gamma.do delta.do trip.completed")
	if b.logs.has("differs from the one") {
		t.Error("an equal start command was logged as a different one")
	}
	different := startOf(t, id)
	different.Event.SetExtension("fingerprint", "g")
	b.process(different)
	if !b.logs.has("differs from the one") {
		t.Error("a different start command was not logged")
	}
}

func TestEngineBeginsASagaPerStartWhateverItCorrelatesWith(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	parent, first, second := ids(1)[0], startOf(t, ids(1)[0]), startOf(t, "order-17")
	first.Event.CorrelationID, second.Event.CorrelationID = parent, parent
	b.process(startOf(t, parent), first, second)
	b.want(parent, saga.Running, 1)
	b.want(first.Event.ID, saga.Running, 1)
	b.want(events.DeriveID("/test", "order-17"), saga.Running, 1)
}

func TestEngineTakesAStartAndItsRepliesInOneBatch(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := ids(1)[0]
	b.process(startOf(t, id), ok(t, id, "alpha"), ok(t, id, "alpha"), ok(t, id, "beta"))
	b.want(id, saga.Running, 3)
	b.wantSent(id, "alpha.do beta.do gamma.do")
	b.process(ok(t, id, "gamma"), ok(t, id, "delta"))
	b.want(id, saga.Completed, 5)
	b.wantSent(id, "alpha.do beta.do gamma.do delta.do trip.completed")
}

func TestEngineSetsAsideWhatItCannotHandle(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id, fresh := ids(1)[0], ids(1)[0]
	b.process(startOf(t, id))
	nobody := ids(1)[0]
	malformed := broker.Delivery{Topic: events.Replies, Malformed: errors.New("no CloudEvent"), Event: events.Event{ID: "malformed-1", Data: []byte("x")}}
	strange := startOf(t, ids(1)[0])
	strange.Event.Type = "test.trip.dance.v1"
	early := ok(t, nobody, "alpha")
	early.Partition = 1
	b.process(
		malformed, early, strange,
		replyTo(t, id, "alpha", []byte("{not json"), nil),
		replyTo(t, id, "alpha", nil, &events.Rejection{}),
		startOf(t, fresh), ok(t, id, "alpha"), // the rest of the batch goes on
	)
	for reason, n := range map[string]int{
		"no CloudEvent":                                      1,
		"no saga starts with test.trip.dance.v1":             1,
		"reply to test.alpha.do.v1 is not JSON":              1,
		"rejection of test.alpha.do.v1 has no readable code": 1,
		"": 0,
	} {
		if got := one[int](b, "select count(*) from dead_letter where consumer = 'saga-engine' and error = $1", reason); got != n {
			t.Errorf("%d dead letters because of %q, want %d", got, reason, n)
		}
	}
	if !b.batch.Skip(1) {
		t.Error("a reply to a saga that does not exist yet is not tried again")
	}
	if n := one[int](b, "select count(*) from dead_letter"); n != 4 {
		t.Errorf("%d dead letters", n)
	}
	b.want(fresh, saga.Running, 1)
	b.want(id, saga.Running, 2)
	b.wantSent(id, "alpha.do beta.do")
}

func TestEngineOutcomes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	all := ids(3)
	b.process(starts(t, all...)...)
	completed, compensated, stuck := all[0], all[1], all[2]
	b.advance(completed, "alpha", "beta", "gamma", "delta")
	b.process(no(t, compensated, "alpha"))
	b.advance(stuck, "alpha", "beta", "gamma")
	b.process(no(t, stuck, "delta"))
	for id, want := range map[string]saga.Outcome{
		completed:   {Status: saga.Completed, Result: []byte(`{"Tickets":[1,1,1,1]}`)},
		compensated: {Status: saga.Compensated, Failure: &saga.Failure{Step: "alpha", Code: "full", Message: "no room"}},
		stuck:       {Status: saga.Stuck, Failure: &saga.Failure{Step: "delta", Code: "full", Message: "refused after the pivot: no room"}},
	} {
		want.ID, want.Saga, want.Version = id, "trip", 1
		letters, outcomes := b.outcomes(id)
		if len(letters) != 1 || string(encode(t, outcomes[0])) != string(encode(t, want)) {
			t.Errorf("outcomes %+v\nwant %+v", outcomes, want)
			continue
		}
		e := letters[0].Event
		if e.Type != "test.trip."+string(want.Status)+".v1" || e.Source != "/sagas/trip" || e.Subject != id || e.PartitionKey != id ||
			e.CausationID == "" || e.ID != letters[0].PublishID || e.ReplyTo != "" || e.DataContentType != events.ContentTypeJSON {
			t.Errorf("event %+v", e)
		}
		if in, _ := b.stored(id); in.Status != want.Status {
			t.Errorf("stored %s, told %s", in.Status, want.Status)
		}
	}
	b.advance(stuck, "delta")
	if letters, outcomes := b.outcomes(stuck); len(outcomes) != 2 || outcomes[1].Status != saga.Completed || letters[0].Event.ID == letters[1].Event.ID {
		t.Errorf("outcomes of a saga that was stuck: %+v", outcomes)
	}
}

func TestEngineKeepsSagasOnTheirVersion(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	old, fresh := ids(1)[0], ids(1)[0]
	b.process(startOf(t, old))
	newer := define(pivot(beta()), delta())
	newer.Version = 2
	b.engine = b.another(newer, standard())
	b.process(startOf(t, fresh), ok(t, old, "alpha"))
	b.wantSent(old, "alpha.do beta.do")
	b.wantSent(fresh, "beta.do")
	if in, _ := b.stored(fresh); in.Version != 2 {
		t.Errorf("begun at version %d", in.Version)
	}
}

func TestEngineCheck(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := b.engine.Check(t.Context()); err != nil {
		t.Errorf("an empty database: %v", err)
	}
	all := ids(3)
	if err := b.engine.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.process(starts(t, all...)...)
	if err := b.engine.Check(t.Context()); err != nil {
		t.Errorf("with its own sagas: %v", err)
	}
	newer := standard()
	newer.Version = 2
	without := b.another(newer)
	err := without.Check(t.Context())
	if err == nil || !strings.Contains(err.Error(), "3 sagas run trip version 1") {
		t.Errorf("without their definition: %v", err)
	}
	if err := b.another(newer, standard()).Check(t.Context()); err != nil {
		t.Errorf("with both versions: %v", err)
	}
	err = b.another(define(alpha(), beta(), note(), pivot(gamma()), delta())).Check(t.Context())
	if err == nil || !strings.Contains(err.Error(), "has other steps than this engine's") {
		t.Errorf("with other steps under the same version: %v", err)
	}
	b.process(no(t, all[0], "alpha"), no(t, all[1], "alpha"), no(t, all[2], "alpha"))
	if err := without.Check(t.Context()); err != nil {
		t.Errorf("after their end: %v", err)
	}
}

func TestEngineWakesTheRelayAfterACommit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var wakes atomic.Int64
	var err error
	b.engine, err = saga.NewEngine(b.pool, saga.EngineConfig{Wake: func() {
		if n := one[int](b, "select count(*) from outbox"); n != 1 {
			t.Errorf("woken with %d rows in the outbox", n)
		}
		wakes.Add(1)
	}}, standard())
	if err != nil {
		t.Fatal(err)
	}
	id := ids(1)[0]
	b.process(startOf(t, id))
	b.process(startOf(t, id)) // writes nothing to the outbox
	if n := wakes.Load(); n != 1 {
		t.Errorf("woken %d times", n)
	}
}

// A transaction that fails leaves no trace, in the database or in memory, and
// the same batch succeeds when it comes again.
func TestEngineSurvivesAFailedTransaction(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (b *bench, id, fresh string) {
		b, id, fresh = newBench(t), ids(1)[0], ids(1)[0]
		b.process(startOf(t, id))
		return b, id, fresh
	}
	check := func(t *testing.T, b *bench, id, fresh string) {
		t.Helper()
		b.want(id, saga.Running, 1)
		b.wantSent(id, "alpha.do")
		if n := one[int](b, "select count(*) from saga where id = $1", fresh); n != 0 {
			t.Error("a saga began in the failed transaction")
		}
		b.process(startOf(t, fresh), ok(t, id, "alpha"))
		b.process(ok(t, fresh, "alpha"), ok(t, id, "beta"))
		b.want(id, saga.Running, 3)
		b.want(fresh, saga.Running, 2)
		b.wantSent(id, "alpha.do beta.do gamma.do")
		b.wantSent(fresh, "alpha.do beta.do")
	}
	t.Run("when another process owns the position", func(t *testing.T) {
		t.Parallel()
		b, id, fresh := setup(t)
		b.batch.Deliveries = []broker.Delivery{startOf(t, fresh), ok(t, id, "alpha")}
		b.exec("update consumer_position set handled = 7")
		if err := b.engine.Process(t.Context(), b.batch); !consumer.IsFenced(err) {
			t.Errorf("Process() = %v, want it fenced", err)
		}
		check(t, b, id, fresh)
	})
	t.Run("when the answer never comes", func(t *testing.T) {
		t.Parallel()
		b, id, fresh := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.try(ctx, b.engine, startOf(t, fresh), ok(t, id, "alpha")); !errors.Is(err, postgres.ErrCommitUnknown) {
			t.Errorf("Process() = %v, want ErrCommitUnknown", err)
		}
		check(t, b, id, fresh)
	})
	t.Run("when a table refuses", func(t *testing.T) {
		t.Parallel()
		b, id, fresh := setup(t)
		b.exec("alter table outbox add constraint broken check (false) not valid")
		if err := b.try(t.Context(), b.engine, startOf(t, fresh), ok(t, id, "alpha")); err == nil {
			t.Error("Process() succeeded")
		}
		if b.logs.has(fresh) {
			t.Error("it logged a change that was rolled back")
		}
		b.exec("alter table outbox drop constraint broken")
		check(t, b, id, fresh)
	})
}

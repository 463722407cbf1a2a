package saga_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/saga"
)

// runTimers runs the engine's timers until the test ends or stop is called.
func (b *bench) runTimers(e *saga.Engine) (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.RunTimers(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				b.t.Errorf("RunTimers() = %v", err)
			}
		case <-time.After(patience):
			b.t.Error("RunTimers does not heed the end of its context")
		}
	}
	b.t.Cleanup(stop)
	return stop
}

// impatient is the standard saga with a beta that repeats and gives up soon.
func impatient(timeout time.Duration) saga.Definition[trip] {
	s := beta()
	s.Timeout, s.Retry = timeout, saga.Retry{Min: 20 * time.Millisecond, Max: 40 * time.Millisecond}
	return define(alpha(), s, pivot(gamma()), delta())
}

func TestTimerIsSetAtTheStartAndDeletedAtTheEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, end := range [][]string{{"alpha", "beta", "gamma", "delta"}, {"alpha", "!beta", "-alpha"}, {"!alpha"}, {"alpha", "beta", "gamma", "!delta"}} {
		id := ids(1)[0]
		b.process(startOf(t, id))
		in, _ := b.stored(id)
		due, isSet := b.due(id)
		if !isSet || !due.Equal(in.Steps[0].Do.RetryAt) {
			t.Errorf("timer %s of a saga that is due %s ", due, in.Steps[0].Do.RetryAt)
		}
		for i, step := range end {
			refused, isNo := strings.CutPrefix(step, "!")
			if isNo {
				b.process(no(t, id, refused))
			} else {
				b.process(ok(t, id, step))
			}
			// A saga that is stuck may still go on.
			if at, isSet := b.due(id); isSet != (i < len(end)-1 || isNo && refused == "delta") || isSet && !at.Equal(due) {
				t.Errorf("%v: after %s the timer is set: %v, %s", end, step, isSet, at)
			}
		}
	}
	if n := one[int](b, "select count(*) from saga_live"); n != 1 {
		t.Errorf("%d sagas are live, want the stuck one", n)
	}
}

// A step that needs to be looked at before the timer is due moves it.
func TestTimerMovesToAnEarlierDeadline(t *testing.T) {
	t.Parallel()
	slow, quick := alpha(), beta()
	slow.Retry.Min, quick.Retry.Min, quick.Timeout = time.Hour, time.Hour, time.Second
	b := newBench(t, define(slow, quick))
	id := ids(1)[0]
	b.process(startOf(t, id))
	before, _ := b.due(id)
	b.process(ok(t, id, "alpha"))
	in, _ := b.stored(id)
	if after, _ := b.due(id); !after.Before(before) || !after.Equal(in.Steps[1].Do.Deadline) {
		t.Errorf("timer %s, was %s, due %s", after, before, in.Steps[1].Do.Deadline)
	}
}

func TestTimerThatFiresEarlyIsSetAnew(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := ids(1)[0]
	b.process(startOf(t, id))
	b.process(ok(t, id, "alpha")) // the timer is still that of alpha
	b.exec("update saga_live set due_at = clock_timestamp() - interval '1 s'")
	b.runTimers(b.another())
	in, _ := b.stored(id)
	eventually(t, "the timer is set anew", func() bool {
		at, isSet := b.due(id)
		return isSet && at.Equal(in.Steps[1].Do.RetryAt)
	})
	b.wantSent(id, "alpha.do beta.do")
	b.process(ok(t, id, "beta")) // this engine does not know of the new revision
	b.want(id, saga.Running, 4)
}

func TestTimerRepeatsACommandAndThenGivesUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, impatient(300*time.Millisecond))
	id := ids(1)[0]
	b.process(startOf(t, id))
	b.runTimers(b.engine)
	b.process(ok(t, id, "alpha"))
	eventually(t, "it compensates", func() bool { in, _ := b.stored(id); return in.Status == saga.Compensating })
	var publishIDs []string
	for _, l := range b.outbox() {
		if l.Event.Type == doB.Type() {
			if l.Event.ID != saga.DoID(id, "beta") {
				t.Errorf("repeated with id %s", l.Event.ID)
			}
			publishIDs = append(publishIDs, l.PublishID)
		}
	}
	if len(publishIDs) < 3 || len(slices.Compact(slices.Sorted(slices.Values(publishIDs)))) != len(publishIDs) {
		t.Errorf("publish ids %q, want several fresh ones", publishIDs)
	}
	b.process(ok(t, id, "-beta"))
	b.process(ok(t, id, "-alpha"))
	in, _ := b.stored(id)
	if in.Status != saga.Compensated || in.Failure.Code != "timeout" {
		t.Errorf("%s because of %+v", in.Status, in.Failure)
	}
	if _, isSet := b.due(id); isSet {
		t.Error("its timer is left")
	}
}

func TestTimerMakesAPivotStuckAndALateReplyResumes(t *testing.T) {
	t.Parallel()
	s := pivot(alpha())
	s.Timeout, s.Retry = 50*time.Millisecond, saga.Retry{Min: 20 * time.Millisecond, Max: 20 * time.Millisecond}
	b := newBench(t, define(s, delta()))
	id := ids(1)[0]
	b.process(startOf(t, id))
	stop := b.runTimers(b.another(define(s, delta()))) // another engine's: ours keeps a stale memory
	eventually(t, "it is stuck", func() bool { in, _ := b.stored(id); return in.Status == saga.Stuck })
	stuck := strings.Count(b.sent(id), "alpha.do")
	eventually(t, "it tries on", func() bool { return strings.Count(b.sent(id), "alpha.do") > stuck })
	if _, outcomes := b.outcomes(id); len(outcomes) != 1 || outcomes[0].Failure.Code != "no_answer" {
		t.Errorf("outcomes %+v", outcomes)
	}
	stop()
	b.process(ok(t, id, "alpha"))
	b.process(ok(t, id, "delta"))
	if in, _ := b.stored(id); in.Status != saga.Completed || in.Trouble != nil {
		t.Errorf("%s, %+v", in.Status, in.Trouble)
	}
}

func TestTimersOfSagasWithoutADefinitionHoldUpNobody(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	foreign, mine := ids(1)[0], ids(1)[0]
	newer := impatient(time.Minute)
	newer.Version = 2
	if err := b.try(t.Context(), b.another(newer), startOf(t, foreign)); err != nil {
		t.Fatal(err)
	}
	b.process(startOf(t, mine))
	b.process(ok(t, mine, "alpha"))
	b.exec("update saga_live set due_at = clock_timestamp() - interval '1 s'")
	b.runTimers(b.engine)
	eventually(t, "its own timer fires", func() bool {
		at, isSet := b.due(mine)
		return isSet && at.After(time.Now())
	})
	if at, isSet := b.due(foreign); !isSet || at.After(time.Now()) {
		t.Errorf("the other timer was touched: %v, %s", isSet, at)
	}
}

func TestTimersOfSagasThatWaitForNothingAreDeleted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ended, gone := ids(1)[0], ids(1)[0]
	b.process(startOf(t, ended))
	b.process(no(t, ended, "alpha"))
	b.exec("insert into saga_live values ($1, clock_timestamp()), ($2, clock_timestamp())", ended, gone)
	b.runTimers(b.engine)
	eventually(t, "they are deleted", func() bool { return one[int](b, "select count(*) from saga_live") == 0 })
	b.want(ended, saga.Compensated, 2)
}

// Several engines fire the timers of many sagas: each command is repeated once
// per pause, whoever does it.
func TestTimersAreSharedByEngines(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	all := ids(300) // more than one transaction takes
	b.process(starts(t, all...)...)
	// Every saga is due, and after this again in 10 s.
	for _, id := range all {
		in, _ := b.stored(id)
		in.Steps[0].Do.RetryAt = dawn.AddDate(-20, 0, 0)
		b.rewrite(id, in)
	}
	b.exec("update saga_live set due_at = clock_timestamp()")
	for range 3 {
		b.runTimers(b.another())
	}
	eventually(t, "all have fired", func() bool { return one[int](b, "select count(*) from saga where revision >= 2") == len(all) })
	if n := one[int](b, "select count(*) from saga where revision > 2"); n != 0 {
		t.Errorf("%d sagas were fired twice", n)
	}
	if n := one[int](b, "select count(*) from outbox"); n != 2*len(all) {
		t.Errorf("%d commands sent, want %d", n, 2*len(all))
	}
}

func TestRunTimersOutlivesALostDatabase(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("alter table saga_live rename to elsewhere")
	e := b.another()
	stop := b.runTimers(e)
	eventually(t, "it has noticed", func() bool { return b.logs.has("timers could not be fired") })
	stop() // while it rests
}

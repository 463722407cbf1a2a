package saga_test

import (
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/saga"
)

// guarded is alpha under a lock of that key, then beta.
func guarded(lock saga.Lock[trip]) saga.Definition[trip] {
	lock.Name = "turn"
	if lock.Key == nil {
		lock.Key = func(trip) string { return "the-bus" }
	}
	if lock.Timeout == 0 {
		lock.Timeout = time.Minute
	}
	d := define()
	d.Flow = saga.Sequence[trip]{lock, alpha(), beta()}
	return d
}

// holders returns which of those sagas have come to alpha.
func (b *bench) holders(all []string) (holders []int) {
	b.t.Helper()
	for i, id := range all {
		if strings.Contains(b.sent(id), "alpha.do") {
			holders = append(holders, i)
		}
	}
	return holders
}

func (b *bench) holderSoon(what string, all []string, want ...int) {
	b.t.Helper()
	eventually(b.t, what, func() bool {
		got := b.holders(all)
		if len(got) != len(want) {
			return false
		}
		for i := range got {
			if got[i] != want[i] {
				return false
			}
		}
		return true
	})
}

func TestLockIsHeldByOneSagaUntilItsEndAndGivenInTurn(t *testing.T) {
	t.Parallel()
	d := guarded(saga.Lock[trip]{})
	b := newBench(t, d)
	for range 2 {
		b.runTimers(b.another(d))
	}
	all := ids(4)
	for _, id := range all {
		b.process(startOf(t, id))
	}
	b.holderSoon("the first one goes on", all, 0)
	b.process(ok(t, all[0], "alpha"), ok(t, all[0], "beta"))
	b.holderSoon("then the second", all, 0, 1)
	b.process(no(t, all[1], "alpha")) // nothing is to be undone
	b.holderSoon("then the third, when the second has been undone", all, 0, 1, 2)
	b.process(ok(t, all[2], "alpha"), no(t, all[2], "beta"))
	b.want(all[2], saga.Compensating, 4)
	if got := b.holders(all); len(got) != 3 {
		t.Errorf("holders %v while the third is still being undone", got)
	}
	b.process(ok(t, all[2], "-alpha"))
	b.holderSoon("then the last", all, 0, 1, 2, 3)
	b.process(ok(t, all[3], "alpha"), ok(t, all[3], "beta"))
	if n := one[int](b, "select count(*) from saga_lock"); n != 0 {
		t.Errorf("%d locks are left", n)
	}
}

func TestLockOfAnotherKeyOrWithMoreSlotsIsFree(t *testing.T) {
	t.Parallel()
	keys := guarded(saga.Lock[trip]{Key: func(s trip) string { return s.ID }})
	slots := guarded(saga.Lock[trip]{Slots: 3})
	for what, d := range map[string]saga.Definition[trip]{"a key of its own": keys, "three slots": slots} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, d)
			b.runTimers(b.engine)
			all := ids(3)
			b.process(starts(t, all...)...)
			b.holderSoon("all go on", all, 0, 1, 2)
		})
	}
}

func TestLockThatDoesNotComeInTimeCompensates(t *testing.T) {
	t.Parallel()
	b := newBench(t, guarded(saga.Lock[trip]{Timeout: 2 * time.Second, TimeoutCode: "busy"}))
	b.runTimers(b.engine)
	all := ids(2)
	b.process(startOf(t, all[0]))
	b.holderSoon("the first has it", all, 0)
	b.process(startOf(t, all[1]))
	eventually(t, "the second gives up", func() bool {
		in, _ := b.stored(all[1])
		return in.Status == saga.Compensated && in.Failure.Code == "busy" && in.Failure.Step == "turn"
	})
}

func TestLockIsTakenFromASagaThatHangs(t *testing.T) {
	t.Parallel()
	b := newBench(t, guarded(saga.Lock[trip]{TTL: 100 * time.Millisecond}))
	b.runTimers(b.engine)
	all := ids(2)
	b.process(startOf(t, all[0]))
	b.holderSoon("the first has it", all, 0)
	b.process(startOf(t, all[1]))
	b.holderSoon("the second gets it in the end", all, 0, 1)
	in, _ := b.stored(all[0])
	if in.Status != saga.Compensating || in.Failure.Code != "lock_expired" {
		t.Errorf("the first is %s because of %+v", in.Status, in.Failure)
	}
}

func TestLockWithABadKeyFailsItsSaga(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", strings.Repeat("x", 201)} {
		p := play(t, guarded(saga.Lock[trip]{Key: func(trip) string { return key }}))
		p.start([]byte("{}"))
		p.ended(saga.Compensated, "definition_failed", "")
	}
}

func TestLimitBoundsHowManySagasRun(t *testing.T) {
	t.Parallel()
	d := define(alpha(), beta())
	d.Limit = saga.Limit{Running: 2}
	b := newBench(t, d)
	b.runTimers(b.engine)
	all := ids(5)
	for _, id := range all {
		b.process(startOf(t, id))
	}
	b.holderSoon("two run", all, 0, 1)
	b.process(no(t, all[0], "alpha"))
	b.holderSoon("and another when one has ended", all, 0, 1, 2)
	in, _ := b.stored(all[3])
	if len(in.Steps) != 1 || in.Steps[0].Name != "admission" || in.Steps[0].Status != saga.StepRunning {
		t.Errorf("the next waits at %+v", in.Steps)
	}
}

func TestLimitBoundsHowFastSagasBegin(t *testing.T) {
	t.Parallel()
	d := define(alpha(), beta())
	d.Limit = saga.Limit{PerSecond: 3}
	b := newBench(t, d)
	b.runTimers(b.engine)
	all := ids(7)
	begun := time.Now()
	for _, id := range all {
		b.process(startOf(t, id))
	}
	eventually(t, "all run", func() bool { return len(b.holders(all)) == len(all) })
	// A burst of three, then three per second: the seventh after 4/3 s.
	if took := time.Since(begun); took < 1200*time.Millisecond {
		t.Errorf("7 sagas began within %s", took)
	}
}

func TestLimitsAndLocksAreChecked(t *testing.T) {
	for want, change := range map[string]func(*saga.Definition[trip]){
		"numbers must not be negative": func(d *saga.Definition[trip]) { d.Limit.Running = -1 },
		"has no timeout and could wait for ever": func(d *saga.Definition[trip]) {
			d.Flow = saga.Lock[trip]{Name: "x", Key: func(trip) string { return "k" }}
		},
		"has no key": func(d *saga.Definition[trip]) { d.Flow = saga.Lock[trip]{Name: "x", Timeout: 1} },
		"TTL must not be negative": func(d *saga.Definition[trip]) {
			d.Flow = saga.Lock[trip]{Name: "x", Timeout: 1, TTL: -1, Key: func(trip) string { return "k" }}
		},
		`two nodes have this name`: func(d *saga.Definition[trip]) {
			d.Limit.Running = 1
			s := alpha()
			s.Name = "admission"
			d.Flow = s
		},
	} {
		d := standard()
		change(&d)
		if _, err := d.Compile(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Compile() = %v, want %s", err, want)
		}
	}
}

package budget

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestALeaseLivesAsLongAsItsPeriodAndItsProcess(t *testing.T) {
	t.Parallel()
	k := Unkept(nil)
	now := time.Now()
	k.until = now.Add(time.Second)
	l := &lease{key: leaseKey{holder: k.holder, budget: "b"}, until: now.Add(time.Second)}
	if !l.live(k, now) {
		t.Error("it does not live")
	}
	if k.until = now; l.live(k, now) {
		t.Error("it outlives what the process has renewed")
	}
	k.until = now.Add(time.Second)
	if l.until = now; l.live(k, now) {
		t.Error("it outlives its period")
	}
	l.until = now.Add(time.Second)
	if k.holder = uuid.New(); l.live(k, now) {
		t.Error("it outlives the process for which it was leased")
	}
}

// What is left of a period that has ended goes back, and so does what nobody needs.
func TestWhatGoesBack(t *testing.T) {
	t.Parallel()
	k := Unkept(nil)
	now := time.Now()
	k.until = now.Add(time.Hour)
	add := func(budget string, until, used time.Time, open int) *lease {
		l := &lease{key: leaseKey{holder: k.holder, budget: budget}, until: until, used: used, free: 5, open: open}
		k.leases[l.key] = l
		return l
	}
	later := now.Add(time.Minute)
	add("busy", later, now, 0)
	add("idle", later, now.Add(-time.Minute), 0)
	add("over", now.Add(-time.Second), now, 0)
	late := add("over with a call", now.Add(-time.Second), now, 1)
	if back := k.idle(now, false); len(back) != 3 || len(k.leases) != 3 {
		t.Fatalf("%d go back, %d leases stay", len(back), len(k.leases))
	}
	late.free, late.open = 3, 0 // the call has ended
	if back := k.idle(now, false); len(back) != 1 || back[0].amount != 3 || len(k.leases) != 2 {
		t.Errorf("%v go back, %d leases stay", back, len(k.leases))
	}
	if back := k.idle(now, true); len(back) != 1 || back[0].key.budget != "busy" {
		t.Errorf("at the end %v go back", back)
	}
}

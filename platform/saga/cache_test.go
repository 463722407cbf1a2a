package saga

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

func at(revision int64, status Status) *stored {
	return &stored{Instance: Instance{Status: status}, revision: revision}
}

// revision returns what the cache holds of a saga; 0 when nothing.
func (c *cache) revision(id uuid.UUID) int64 {
	found := make(map[uuid.UUID]*stored)
	if c.get([]uuid.UUID{id}, found); found[id] == nil {
		return 0
	}
	return found[id].revision
}

func TestCacheStaysWithinItsBound(t *testing.T) {
	c := newCache(10)
	for range 100 {
		id := uuid.New()
		c.put(id, at(1, Running))
		if c.revision(id) != 1 {
			t.Fatal("what was put last is not there")
		}
	}
	if len(c.sagas) != 10 {
		t.Errorf("%d sagas", len(c.sagas))
	}
}

func TestCacheKeepsTheNewestRevisionOfLiveSagas(t *testing.T) {
	c, id := newCache(10), uuid.New()
	c.put(id, at(3, Running))
	c.put(id, at(2, Running))
	if got := c.revision(id); got != 3 {
		t.Errorf("revision %d, want 3", got)
	}
	c.put(id, at(4, Stuck))
	if got := c.revision(id); got != 4 {
		t.Errorf("revision %d, want 4", got)
	}
	for _, end := range []Status{Completed, Compensated, Abandoned} {
		c.put(id, at(4, Running))
		c.put(id, at(5, end))
		if got := c.revision(id); got != 0 {
			t.Errorf("%s is kept at revision %d", end, got)
		}
	}
}

func TestCacheGivesPrivateCopiesAndForgets(t *testing.T) {
	c, id, other := newCache(10), uuid.New(), uuid.New()
	c.put(id, at(1, Running))
	found := make(map[uuid.UUID]*stored)
	if missing := c.get([]uuid.UUID{id, other}, found); len(missing) != 1 || missing[0] != other {
		t.Errorf("missing %v", missing)
	}
	found[id].Status, found[id].revision = Completed, 9
	if !found[id].cached || c.sagas[id].Status != Running || c.sagas[id].revision != 1 {
		t.Errorf("kept %+v, given %+v", c.sagas[id], found[id])
	}
	c.forget([]uuid.UUID{id, other})
	if c.revision(id) != 0 {
		t.Error("it was not forgotten")
	}
}

// What is ignored and not written either is all that nothing else checks.
func TestCacheDoubtsWhatNoRevisionGuards(t *testing.T) {
	c, guarded, ignored := newCache(10), uuid.New(), uuid.New()
	c.put(guarded, at(1, Running))
	c.put(ignored, at(1, Running))
	both := map[uuid.UUID]bool{guarded: true, ignored: true}
	if !c.doubt(both, map[uuid.UUID]*change{guarded: {}}) {
		t.Error("no doubt")
	}
	if c.revision(guarded) != 1 || c.revision(ignored) != 0 {
		t.Errorf("kept %d and %d", c.revision(guarded), c.revision(ignored))
	}
	if c.doubt(map[uuid.UUID]bool{guarded: true}, map[uuid.UUID]*change{guarded: {}}) {
		t.Error("doubt over what a revision guards")
	}
}

func TestClockIsFreshForAWhile(t *testing.T) {
	var c clock
	if _, fresh := c.now(); fresh {
		t.Error("fresh before it was ever read")
	}
	start := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	c.set(start)
	now, fresh := c.now()
	if !fresh || now.Before(start) || now.After(start.Add(clockAge)) || now.Nanosecond()%1000 != 0 {
		t.Errorf("now %s, fresh %v", now, fresh)
	}
	c.read = c.read.Add(-clockAge)
	if _, fresh := c.now(); fresh {
		t.Error("still fresh after its time")
	}
}

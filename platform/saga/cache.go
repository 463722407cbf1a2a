package saga

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"
)

// cacheMax is how many running sagas an engine keeps in memory, a few kB each.
const cacheMax = 20_000

// cache keeps sagas as this engine last wrote them, so that a reply costs no
// read. It may be wrong, when another engine has written since. Every write is
// guarded by the revision, and a conflict empties the entries concerned; what
// would be ignored without a write is looked up in the database first.
type cache struct {
	mu    sync.Mutex
	sagas map[uuid.UUID]*stored
	max   int
}

func newCache(most int) *cache { return &cache{sagas: make(map[uuid.UUID]*stored), max: most} }

// get moves the sagas that it knows of ids into found, and returns the others.
func (c *cache) get(ids []uuid.UUID, found map[uuid.UUID]*stored) (missing []uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if s, ok := c.sagas[id]; ok {
			private := *s // a batch that fails must leave the entry as it was
			private.cached = true
			found[id] = &private
		} else {
			missing = append(missing, id)
		}
	}
	return missing
}

// put keeps a saga that has not ended.
func (c *cache) put(id uuid.UUID, s *stored) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.Status.Final() {
		delete(c.sagas, id)
		return
	}
	if known, ok := c.sagas[id]; ok && known.revision > s.revision {
		return // the timer loop and the feed may pass each other here
	}
	c.sagas[id] = s
	if len(c.sagas) > c.max {
		for other := range c.sagas { // any one: map order is random, and a miss costs a read
			if other != id {
				delete(c.sagas, other)
				break
			}
		}
	}
}

// doubt drops the sagas that ignored something and are not written either, so
// that nothing would tell whether the cache was right. It reports whether there
// are any.
func (c *cache) doubt(ignored map[uuid.UUID]bool, changed map[uuid.UUID]*change) bool {
	var doubtful []uuid.UUID
	for id := range ignored {
		if _, guarded := changed[id]; !guarded {
			doubtful = append(doubtful, id)
		}
	}
	c.forget(doubtful)
	return len(doubtful) > 0
}

// forget drops sagas that may not be what the database holds.
func (c *cache) forget(ids []uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		delete(c.sagas, id)
	}
}

// load returns those sagas from the cache or the database, and the database's
// time.
func (e *Engine) load(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]*stored, time.Time, error) {
	found := make(map[uuid.UUID]*stored, len(ids))
	missing := e.cache.get(ids, found)
	if len(missing) == 0 {
		if now, fresh := e.clock.now(); fresh {
			return found, now, nil
		}
	}
	read, now, err := load(ctx, e.pool, missing)
	if err != nil {
		return nil, now, err
	}
	e.clock.set(now)
	maps.Copy(found, read)
	return found, now, nil
}

// clockAge is how long the database's clock is carried on by this process's
// monotonic one. Both run at the same pace, so the error within it is small
// against any deadline.
const clockAge = time.Second

// clock is the database's clock, as last read.
type clock struct {
	mu   sync.Mutex
	at   time.Time // the database's
	read time.Time // this process's, monotonic
}

func (c *clock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.read = at, time.Now()
}

func (c *clock) now() (now time.Time, fresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.read.IsZero() {
		return now, false
	}
	age := time.Since(c.read)
	return c.at.Add(age).Truncate(time.Microsecond), age < clockAge // as precise as the database's
}

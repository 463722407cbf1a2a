package token

import (
	"crypto/sha256"
	"sync"
	"time"
)

const (
	// cacheFor is for how long a token that was taken is not checked again: checking a
	// signature costs more than all else that a request does.
	cacheFor = 10 * time.Second
	cacheMax = 10_000
)

// cache is tokens that were taken lately, by their hash. It forgets all when the
// issuer's keys are read again: one of them may have been withdrawn.
type cache struct {
	mu         sync.Mutex
	generation int // of the keys
	taken      map[[sha256.Size]byte]cached
}

type cached struct {
	token Token
	until time.Time
}

func (c *cache) get(text string, generation int) (Token, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation != generation {
		return Token{}, false
	}
	found, ok := c.taken[sha256.Sum256([]byte(text))]
	return found.token, ok && time.Now().Before(found.until)
}

// put keeps a token that was checked with keys of that generation.
func (c *cache) put(text string, generation int, t Token) {
	until := time.Now().Add(cacheFor)
	if t.Expires.Before(until) {
		until = t.Expires
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation < c.generation { // of keys that were read again meanwhile
		return
	}
	if c.generation != generation || c.taken == nil {
		c.generation, c.taken = generation, make(map[[sha256.Size]byte]cached)
	}
	if len(c.taken) >= cacheMax {
		for one := range c.taken { // one is as good as another: they are all young
			delete(c.taken, one)
			break
		}
	}
	c.taken[sha256.Sum256([]byte(text))] = cached{t, until}
}

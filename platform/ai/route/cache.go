package route

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"sync"
	"time"

	"github.com/countermand/countermand/platform/ai/config"
)

// cache keeps answers for the same request of the same tenant. It holds what was used
// last, within bounds.
type cache struct {
	config config.Cache

	mu      sync.Mutex
	entries map[cacheKey]*list.Element
	recent  *list.List // of *cached, the last used first
	bytes   int64
}

type cacheKey [sha256.Size]byte

type cached struct {
	key     cacheKey
	answer  []byte
	expires time.Time
}

// entryBytes is what an entry takes beside its answer.
const entryBytes = 200

func newCache(c config.Cache) *cache {
	return &cache{config: c, entries: make(map[cacheKey]*list.Element), recent: list.New()}
}

// keyOf names a request. Parts have their length before them, so that no two lists of
// parts are the same text.
func keyOf(parts ...string) cacheKey {
	h := sha256.New()
	for _, part := range parts {
		_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		_, _ = h.Write([]byte(part))
	}
	return cacheKey(h.Sum(nil))
}

func (c *cache) get(key cacheKey, now time.Time) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil {
		return nil
	}
	kept := e.Value.(*cached)
	if now.After(kept.expires) {
		c.remove(e)
		return nil
	}
	c.recent.MoveToFront(e)
	return kept.answer
}

func (c *cache) put(key cacheKey, answer []byte, now time.Time) {
	if int64(len(answer)) > c.config.Bytes/16 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		c.remove(e)
	}
	c.entries[key] = c.recent.PushFront(&cached{key, answer, now.Add(c.config.TTL)})
	c.bytes += int64(len(answer)) + entryBytes
	for c.bytes > c.config.Bytes || c.recent.Len() > c.config.Entries {
		c.remove(c.recent.Back())
	}
}

func (c *cache) remove(e *list.Element) {
	kept := c.recent.Remove(e).(*cached)
	delete(c.entries, kept.key)
	c.bytes -= int64(len(kept.answer)) + entryBytes
}

// cached looks for an answer that was given before to the same request of the same
// tenant. Answers in parts are not kept.
func (x *exchange) cached() (cacheKey, []byte) {
	if x.s.cache == nil || x.call.Stream || strings.Contains(x.r.Header.Get("Cache-Control"), "no-store") {
		return cacheKey{}, nil
	}
	key := keyOf(x.call.Caller.Tenant, string(x.call.Format), x.r.Header.Get("Anthropic-Beta"), string(x.call.Body.Bytes()))
	if strings.Contains(x.r.Header.Get("Cache-Control"), "no-cache") {
		return key, nil
	}
	answer := x.s.cache.get(key, time.Now())
	x.observed.Cached(answer != nil)
	return key, answer
}

// keep keeps an answer for the next time.
func (x *exchange) keep(key cacheKey, answer []byte) {
	if key != (cacheKey{}) {
		x.s.cache.put(key, answer, time.Now())
	}
}

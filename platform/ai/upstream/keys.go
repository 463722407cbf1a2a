package upstream

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Rests of a key after an answer that is about the key.
const (
	refusedRest = time.Minute
	limitedRest = 5 * time.Second
	restMax     = 5 * time.Minute
)

// keyring picks keys by weight and lets those rest that the provider does not take.
type keyring struct {
	keys  []Key
	rests []atomic.Int64 // until, in unix nanoseconds
}

func newKeyring(keys []Key) *keyring {
	return &keyring{keys: keys, rests: make([]atomic.Int64, len(keys))}
}

// pick returns the place of a key; ok is false when all of them rest. The place is -1
// when there are no keys.
func (k *keyring) pick(now time.Time) (place int, ok bool) {
	switch len(k.keys) {
	case 0:
		return -1, true
	case 1:
		return 0, k.rests[0].Load() <= now.UnixNano()
	}
	total := 0
	for i := range k.keys {
		if k.rests[i].Load() <= now.UnixNano() {
			total += max(k.keys[i].Weight, 1)
		}
	}
	if total == 0 {
		return -1, false
	}
	at := rand.IntN(total) //nolint:gosec // it spreads load, and guards nothing
	for i := range k.keys {
		if k.rests[i].Load() > now.UnixNano() {
			continue
		}
		if at -= max(k.keys[i].Weight, 1); at < 0 {
			return i, true
		}
	}
	return -1, false // all began to rest meanwhile
}

// rest lets a key rest. The only key of a provider never does: what it was refused for
// may be one model's, or one moment's.
func (k *keyring) rest(place int, now time.Time, d time.Duration) {
	if len(k.keys) > 1 {
		k.rests[place].Store(now.Add(min(d, restMax)).UnixNano())
	}
}

// sign puts a key into the header of a request.
func (k *keyring) sign(h http.Header, auth Auth, place int) {
	if place < 0 {
		return
	}
	secret := string(k.keys[place].Secret)
	switch auth {
	case Bearer:
		h.Set("Authorization", "Bearer "+secret)
	case XAPIKey:
		h.Set("X-Api-Key", secret)
	case APIKey:
		h.Set("Api-Key", secret)
	case GoogleKey:
		h.Set("X-Goog-Api-Key", secret)
	case WithoutKey:
	}
}

// redact takes the secrets out of a text that an upstream has sent.
func (k *keyring) redact(text string) string {
	for i := range k.keys {
		if secret := string(k.keys[i].Secret); secret != "" {
			text = strings.ReplaceAll(text, secret, "[redacted]")
		}
	}
	return text
}

package apikey

import "time"

// Believe sets for how long the keyring believes the store.
func (k *Keyring) Believe(fresh time.Duration) { k.fresh = fresh }

// Held returns how many keys and texts that are none it holds.
func (k *Keyring) Held() (known, unknown int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.known), len(k.unknown)
}

// Checksum is what a key ends with.
func Checksum(body string) string { return checksum(body) }

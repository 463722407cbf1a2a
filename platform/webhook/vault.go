package webhook

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// keyBytesMin is the least that a key of a vault may have.
const keyBytesMin = 16

// errSealed means that a secret was sealed with a key that this process does not have.
var errSealed = errors.New("a secret of a webhook is sealed with a key that is not among those given: add the earlier key after the current one, or delete the subscription")

// Vault seals secrets for the database, with AES-256-GCM. It is safe for concurrent
// use.
type Vault struct {
	current uint32
	keys    map[uint32]cipher.AEAD
}

// NewVault returns a vault that seals with the first key and opens with any. A key is
// at least 16 random bytes. To replace one, put the new one in front, and take the old
// one away when every subscription has been written since.
func NewVault(keys ...[]byte) (*Vault, error) {
	v := &Vault{keys: make(map[uint32]cipher.AEAD)}
	for i, key := range keys {
		if len(key) < keyBytesMin {
			return nil, fmt.Errorf("key %d of the webhooks has %d bytes, at least %d are needed", i+1, len(key), keyBytesMin)
		}
		// The number names the key in what it has sealed, and tells nothing about it.
		derived, err := hkdf.Key(sha256.New, key, nil, "countermand webhook secrets", 32+4)
		if err != nil {
			return nil, fmt.Errorf("key of the webhooks: %w", err)
		}
		block, err := aes.NewCipher(derived[:32])
		if err != nil {
			return nil, fmt.Errorf("key of the webhooks: %w", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("key of the webhooks: %w", err)
		}
		number := binary.BigEndian.Uint32(derived[32:])
		if i == 0 {
			v.current = number
		}
		v.keys[number] = aead
	}
	if len(v.keys) == 0 {
		return nil, errors.New("webhooks need a key to seal secrets with")
	}
	return v, nil
}

// seal encrypts a secret that belongs to owner: it opens for no other.
func (v *Vault) seal(owner string, secret []byte) []byte {
	sealed := binary.BigEndian.AppendUint32(nil, v.current)
	return v.keys[v.current].Seal(sealed, nil, secret, []byte(owner)) //nolint:gosec // the cipher makes the nonce
}

func (v *Vault) open(owner string, sealed []byte) ([]byte, error) {
	if len(sealed) < 4 {
		return nil, errSealed
	}
	aead, ok := v.keys[binary.BigEndian.Uint32(sealed)]
	if !ok {
		return nil, errSealed
	}
	secret, err := aead.Open(nil, nil, sealed[4:], []byte(owner))
	if err != nil {
		return nil, fmt.Errorf("open secret of %s: %w", owner, err)
	}
	return secret, nil
}

// randomBytes returns n bytes that nobody can guess.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, by contract of crypto/rand
	return b
}

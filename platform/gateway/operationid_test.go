package gateway

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestOperationID(t *testing.T) {
	t.Parallel()
	m := newMint([]byte("a secret of enough bytes"))
	now := time.UnixMilli(1_764_000_000_123).UTC()

	t.Run("is a UUIDv8", func(t *testing.T) {
		t.Parallel()
		for _, id := range []operationID{m.fresh("", now), m.derived("", macOfKey, "a", "b")} {
			parsed, err := uuid.Parse(id.String())
			if err != nil || parsed.Version() != 8 || parsed.Variant() != uuid.RFC4122 || parsed != uuid.UUID(id) {
				t.Errorf("%s: version %d, variant %s, %v", id, parsed.Version(), parsed.Variant(), err)
			}
		}
	})

	t.Run("an unkeyed one tells when it was made", func(t *testing.T) {
		t.Parallel()
		id := m.fresh("", now)
		if id.keyed() || !id.mintedAt().Equal(now) || !m.authentic(id, "") {
			t.Errorf("%s: keyed %t, made at %s", id, id.keyed(), id.mintedAt())
		}
		if later := m.fresh("", now.Add(time.Millisecond)); later.String() <= id.String() {
			t.Errorf("%s does not sort after %s", later, id)
		}
		seen := make(map[operationID]bool)
		for range 10_000 {
			id := m.fresh("", now)
			if seen[id] {
				t.Fatalf("%s comes twice within a millisecond", id)
			}
			seen[id] = true
		}
	})

	t.Run("a keyed one derives from its parts and the secret", func(t *testing.T) {
		t.Parallel()
		id := m.derived("", macOfKey, "tenant", "client", "key")
		if !id.keyed() || !id.mintedAt().IsZero() || !m.authentic(id, "") {
			t.Errorf("%s: keyed %t", id, id.keyed())
		}
		if again := newMint([]byte("a secret of enough bytes")).derived("", macOfKey, "tenant", "client", "key"); again != id {
			t.Errorf("%s and %s", id, again)
		}
		for _, other := range []operationID{
			m.derived("", macOfKey, "tenantclient", "", "key"), m.derived("", macOfKey, "tenant", "client", "key", ""), m.derived("", macOfKey, "tenant", "client", "Key"),
			newMint([]byte("another secret of bytes")).derived("", macOfKey, "tenant", "client", "key"),
		} {
			if other == id {
				t.Errorf("%s has two origins", id)
			}
		}
	})

	t.Run("one of a tenant is nobody else's", func(t *testing.T) {
		t.Parallel()
		for _, id := range []operationID{m.fresh("acme", now), m.derived("acme", macOfKey, "acme", "k")} {
			if !m.authentic(id, "acme") || m.authentic(id, "") || m.authentic(id, "acm") || m.authentic(id, "other") {
				t.Errorf("%s passes for another tenant, or not for its own", id)
			}
		}
		if m.derived("", macOfKey, "a") == m.derived("", macOfBusinessKey, "a") {
			t.Error("a business key and an Idempotency-Key make one id")
		}
	})

	t.Run("any changed bit shows", func(t *testing.T) {
		t.Parallel()
		for _, id := range []operationID{m.fresh("", now), m.derived("", macOfKey, "a")} {
			for bit := range 128 {
				forged := id
				forged[bit/8] ^= 1 << (bit % 8)
				if m.authentic(forged, "") {
					t.Errorf("%s passes for %s", forged, id)
				}
			}
			if newMint([]byte("another secret of bytes")).authentic(id, "") {
				t.Errorf("%s passes under another secret", id)
			}
		}
	})
}

func FuzzParseOperationID(f *testing.F) {
	m := newMint([]byte("a secret of enough bytes"))
	id := m.fresh("", time.Now()).String()
	for _, seed := range []string{id, strings.ToUpper(id), "", strings.Repeat("-", 36), id[:34] + "-0", "0" + id} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, ok := parseOperationID(text)
		if ok && id.String() != text {
			t.Errorf("%q is read as %s", text, id)
		}
		if parsed, err := uuid.Parse(text); !ok && err == nil && parsed.String() == text {
			t.Errorf("%q is canonical and refused", text)
		}
	})
}

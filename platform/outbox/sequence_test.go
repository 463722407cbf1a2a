package outbox_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/outbox"
)

func TestCheckSequence(t *testing.T) {
	t.Parallel()
	pool := setup(t).Pool
	if err := outbox.CheckSequence(t.Context(), pool); err != nil {
		t.Errorf("as migrated: %v", err)
	}
	for change, want := range map[string]string{
		"cache 20":                    "cache 1",
		"cycle":                       "no cycle",
		"increment -1 minvalue -1000": "increment 1",
	} {
		if _, err := pool.Exec(t.Context(), "alter sequence outbox_id cache 1 no cycle increment 1"); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(t.Context(), "alter sequence outbox_id "+change); err != nil {
			t.Fatal(err)
		}
		if err := outbox.CheckSequence(t.Context(), pool); !errors.Is(err, outbox.ErrUnordered) || !strings.Contains(err.Error(), want) {
			t.Errorf("with %s: %v", change, err)
		}
	}
}

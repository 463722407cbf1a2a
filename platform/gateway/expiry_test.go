package gateway

import (
	"testing"
	"time"
)

func TestAnExpiryTimeThatIsTakenCanBeReadByTheEngine(t *testing.T) {
	t.Parallel()
	for value, taken := range map[string]bool{
		"2026-11-22T10:00:00.5+01:00": true, "9999-12-31T23:59:59Z": true, "9999-12-31T23:59:59+23:00": true,
		"9999-12-31T23:59:59-01:00": false, "0000-01-01T00:00:00+01:00": false, "soon": false, "": false,
	} {
		text, _, fault := parseExpiry([]string{value}, time.Now())
		if (fault == "") != taken {
			t.Errorf("%s: fault %q", value, fault)
		}
		if _, err := time.Parse(time.RFC3339Nano, text); taken && err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
}

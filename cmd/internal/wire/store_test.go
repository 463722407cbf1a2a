package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/apikey"
	"github.com/countermand/countermand/platform/gateway"
)

func TestAGatewayThatOthersReachSaysWhoMaySendRequests(t *testing.T) {
	for _, test := range []struct {
		table          string
		open, loopback bool
		want           bool
	}{
		{"version: 1", false, true, true},
		{"version: 1", false, false, false},
		{"version: 1", true, false, true},
		{"version: 1\nauth: {default: none}", false, false, true},
		{"version: 1\nauth: {default: key}", false, false, true},
		{"version: 1\nauth: {}", false, false, false},
	} {
		table, err := ParseRoutes("routes.yaml", []byte(test.table), nil)
		if err != nil {
			t.Fatal(err)
		}
		err = checkOpen(Config{Edge: EdgeConfig{Open: test.open}}, table, &endpoint{url: "http://[::]:8080", loopback: test.loopback})
		if (err == nil) != test.want {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

func TestReadySaysThatItIsOpen(t *testing.T) {
	for open, want := range map[bool]string{true: "  http http://h  admin http://a  open: no credential is asked for\n", false: "  http http://h  admin http://a\n"} {
		var out bytes.Buffer
		if (Ready{HTTP: "http://h", Admin: "http://a", Open: open}).Print(&out, false); !strings.HasSuffix(out.String(), want) {
			t.Errorf("open %t: %q", open, &out)
		}
	}
}

func TestAKeyThatIsRefusedIsToldFromAStoreThatIsDown(t *testing.T) {
	for _, refused := range []error{apikey.ErrUnknown, apikey.ErrExpired, apikey.ErrRevoked} {
		if err := refusedKey(refused); !errors.Is(err, gateway.ErrCredentialRefused) || !strings.HasSuffix(err.Error(), refused.Error()) {
			t.Errorf("%v became %v", refused, err)
		}
	}
	if err := refusedKey(fmt.Errorf("%w: no route to host", apikey.ErrUnavailable)); errors.Is(err, gateway.ErrCredentialRefused) {
		t.Error("a store that is down is not the client's fault")
	}
}

func TestAKeyIsValidUntilItsStoreSaysOtherwise(t *testing.T) {
	past, later := time.Now().Add(-time.Second), time.Now().Add(time.Hour)
	for name, one := range map[string]struct {
		expires *time.Time
		says    error
		want    bool
	}{
		"taken":                     {nil, nil, true},
		"expires later":             {&later, nil, true},
		"expired":                   {&past, nil, false},
		"revoked":                   {&later, apikey.ErrRevoked, false},
		"expires earlier by now":    {&later, apikey.ErrExpired, false},
		"the store does not answer": {nil, fmt.Errorf("%w: no route to host", apikey.ErrUnavailable), true},
	} {
		identity := identityOf(apikey.Key{ExpiresAt: one.expires}, func(context.Context) error { return one.says })
		if got := identity.Valid(t.Context()); got != one.want {
			t.Errorf("%s: valid %t", name, got)
		}
	}
}

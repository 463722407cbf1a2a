package gateway_test

import (
	"context"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/gateway"
)

func TestIdentity(t *testing.T) {
	answers := func(good bool) func(context.Context) bool { return func(context.Context) bool { return good } }
	for name, test := range map[string]struct {
		identity gateway.Identity
		valid    bool
	}{
		"nobody":  {gateway.Identity{}, true},
		"ahead":   {gateway.Identity{Expires: time.Now().Add(time.Hour)}, true},
		"expired": {gateway.Identity{Expires: time.Now().Add(-time.Second), Recheck: answers(true)}, false},
		"asked":   {gateway.Identity{Expires: time.Now().Add(time.Hour), Recheck: answers(true)}, true},
		"revoked": {gateway.Identity{Expires: time.Now().Add(time.Hour), Recheck: answers(false)}, false},
	} {
		if valid := test.identity.Valid(t.Context()); valid != test.valid {
			t.Errorf("%s: valid %t, want %t", name, valid, test.valid)
		}
	}
	identity := gateway.Identity{Scopes: []string{"orders:write"}}
	if !identity.Has("orders:write") || identity.Has("orders") || (gateway.Identity{}).Has("") {
		t.Error("a scope is had as it is written, or not at all")
	}
}

package route_test

import (
	"testing"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/gateway"
)

func TestEveryCallHasATenantThatPays(t *testing.T) {
	t.Parallel()
	for identity, want := range map[*gateway.Identity]ai.Caller{
		{}:                          {Tenant: ai.DefaultTenant},
		{Client: "shop", Key: "k1"}: {Tenant: ai.DefaultTenant, App: "shop", Key: "k1"},
		{Tenant: "acme", Client: "shop", Key: "k1"}: {Tenant: "acme", App: "shop", Key: "k1"},
	} {
		if got := route.CallerOf(*identity); got != want {
			t.Errorf("%+v pays as %+v", *identity, got)
		}
	}
}

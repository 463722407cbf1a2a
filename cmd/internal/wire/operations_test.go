package wire

import (
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
	"github.com/countermand/countermand/platform/saga"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// Who has no tenant is not shown what a tenant owns.
func TestOperationsBelongToTheirTenant(t *testing.T) {
	if op := operation(&saga.Instance{Tenant: "acme"}, 1); op.Tenant != "acme" {
		t.Errorf("the tenant is %q", op.Tenant)
	}
	pool := postgrestest.Open(t, postgres.Config{}, postgres.MigrationSet{Owner: "saga", FS: saga.Migrations()})
	owned, nobodys := events.NewID(), events.NewID()
	for _, id := range []string{owned, nobodys} {
		if _, err := pool.Exec(t.Context(), `
			insert into saga (id, created_at, snapshot, day, version, definition, hash, status, updated_at, revision)
			values ($1, now(), 1, current_date, 1, 'checkout', '', 'running', now(), 1)`, id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Exec(t.Context(), "insert into saga_attribute (saga_id, name, value) values ($1, '_tenant', 'acme')", owned); err != nil {
		t.Fatal(err)
	}
	for tenant, want := range map[string]string{"": nobodys, "acme": owned} {
		page, err := operations{saga.NewReader(pool)}.List(t.Context(), gateway.OperationFilter{
			Tenant: tenant, Commands: []string{"shop.checkout.request.v1"}, Limit: 10,
		})
		if err != nil || len(page.Operations) != 1 || page.Operations[0].ID != want {
			t.Errorf("of %q: %+v, %v", tenant, page.Operations, err)
		}
	}
}

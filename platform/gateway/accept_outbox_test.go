package gateway_test

import (
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/gateway"
)

// What such a route does is tested with a real database and broker, in intake.
func TestAcceptByOutboxNeedsAnIntake(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const routes = "version: 1\nroutes:\n  - {id: a, kind: command, match: POST /v1/a, command: shop.audit.begin.v1, accept: outbox}\n"
	table, err := gateway.ParseTable("routes.yaml", []byte(routes), contracts(t), lookupIn(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.gateway.SetTable(table); err == nil || !strings.Contains(err.Error(), "route a: accept: outbox needs a database of the gateway's own") {
		t.Errorf("error = %v", err)
	}
	if info := table.Routes()[0]; !table.AcceptsByOutbox() || info.Accept != "outbox" {
		t.Errorf("the table tells %+v", info)
	}
}

package shop_test

import (
	"testing"

	"github.com/countermand/countermand/events/schema/schematest"
	"github.com/countermand/countermand/events/shop"
)

func TestTheCommittedSchemasMatchTheTypes(t *testing.T) { schematest.Check(t, shop.Contracts()...) }

func TestSchemaOfAnUnknownTypeIsAnError(t *testing.T) {
	if _, err := shop.Schema("shop.unknown.do.v1"); err == nil {
		t.Error("want an error")
	}
}

package ai_test

import (
	"testing"

	"github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/events/schema/schematest"
)

func TestTheCommittedSchemasMatchTheTypes(t *testing.T) { schematest.Check(t, ai.Contracts()...) }

func TestSchemaOfAnUnknownTypeIsAnError(t *testing.T) {
	if _, err := ai.Schema("ai.unknown.do.v1"); err == nil {
		t.Error("want an error")
	}
}

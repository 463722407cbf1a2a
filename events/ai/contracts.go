package ai

import (
	"embed"
	"fmt"

	"github.com/countermand/countermand/events"
)

// Contracts lists every contract of the package.
func Contracts() []events.Contract {
	return []events.Contract{
		RequestCompletion, Complete, ReserveBudget, ReleaseBudget,
		UsageRecorded, CallReleased, CallUncertain,
		ThresholdReached, Exhausted, Reserved, Released,
		PromptPublished, PromptChannelMoved,
	}
}

//go:embed schemas/*.json
var schemas embed.FS

// Schema returns the JSON Schema (2020-12) of the data of events of that type.
// It fails for a type that is no contract of the package.
func Schema(eventType string) ([]byte, error) {
	schema, err := schemas.ReadFile("schemas/" + eventType + ".json")
	if err != nil {
		return nil, fmt.Errorf("no schema for %s: it is not a contract of AI calls", eventType)
	}
	return schema, nil
}

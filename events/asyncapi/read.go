package asyncapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/countermand/countermand/events"
)

// Schemas returns the schemas of the payloads in a document of this package by the
// type of the event, but those of rejections and outcomes, which are the platform's.
func Schemas(document []byte) (map[string][]byte, error) {
	var d struct {
		AsyncAPI string `json:"asyncapi"`
		Channels map[string]struct {
			Messages map[string]any `json:"messages"`
		} `json:"channels"`
		Components struct {
			Messages map[string]struct {
				Payload struct {
					Ref string `json:"$ref"`
				} `json:"payload"`
			} `json:"messages"`
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(document, &d); err != nil {
		return nil, fmt.Errorf("asyncapi document: %w", err)
	}
	if !strings.HasPrefix(d.AsyncAPI, "3.") {
		return nil, errors.New("asyncapi document: want AsyncAPI 3, as countermand spec asyncapi writes it")
	}
	schemas := make(map[string][]byte)
	for topic, channel := range d.Channels {
		if topic == string(events.Outcomes) {
			continue
		}
		for name := range channel.Messages {
			schema, ok := d.Components.Schemas[strings.TrimPrefix(d.Components.Messages[name].Payload.Ref, "#/components/schemas/")]
			if ok && !strings.HasSuffix(name, ".rejected") {
				schemas[name] = schema
			}
		}
	}
	return schemas, nil
}

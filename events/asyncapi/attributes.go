package asyncapi

import (
	"fmt"

	"github.com/countermand/countermand/events"
)

// attributes returns the schema of the headers that every event has: those of
// CloudEvents 1.0 in binary content mode, and the platform's extensions.
func attributes(on Broker) node {
	binding, encoded := events.NATS, " Percent-encoded."
	if on == Kafka {
		binding, encoded = events.Kafka, ""
	}
	// The limits are on bytes before encoding, which maxLength cannot say.
	text := func(bytesMax int, description string) node {
		return node{"type": "string", "description": fmt.Sprintf("%s%s At most %d bytes.", description, encoded, bytesMax)}
	}
	properties := node{}
	for attribute, schema := range map[string]node{
		"specversion":     {"const": "1.0"},
		"id":              text(events.IDBytesMax, "Unique within the source."),
		"source":          text(events.AttributeBytesMax, "Who says it, such as /inventory."),
		"type":            text(events.TypeBytesMax, "Names the contract."),
		"time":            {"type": "string", "format": "date-time"},
		"subject":         text(events.AttributeBytesMax, "What it is about."),
		"datacontenttype": {"const": events.ContentTypeJSON, "description": "Absent when there is no data."},
		"correlationid":   text(events.AttributeBytesMax, "The saga's id, in all events of a saga."),
		"causationid":     text(events.AttributeBytesMax, "Id of the event that caused this one; in a reply, the command's."),
		"partitionkey":    text(events.AttributeBytesMax, "What keeps its order."),
		"replyto":         text(events.AttributeBytesMax, "In commands: the topic that wants the reply."),
		"undoes":          text(events.AttributeBytesMax, "In compensations: id of the command to undo."),
		"traceparent":     text(events.AttributeBytesMax, "W3C trace context."),
		"tracestate":      text(events.AttributeBytesMax, "W3C trace context."),
	} {
		properties[binding.Header(attribute)] = schema
	}
	required := []string{}
	for _, attribute := range []string{"specversion", "id", "source", "type"} {
		required = append(required, binding.Header(attribute))
	}
	return node{
		"type": "object", "required": required, "properties": properties,
		"description": "Attributes of CloudEvents 1.0 in binary content mode. Other extensions may come.",
	}
}

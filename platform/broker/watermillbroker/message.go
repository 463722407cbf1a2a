package watermillbroker

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// What a message is on the wire that was not made from an event.
const (
	// SourceDefault is the source of a message without the metadata ce-source.
	SourceDefault = "/watermill"
	// TypeDefault is the type of a message without the metadata ce-type.
	TypeDefault = "watermill.message.v1"
)

const attributePrefix = "ce-" // of metadata keys that are attributes

// metadataExtension carries the metadata that is no attribute, as a JSON object:
// its keys need not be names that CloudEvents allows.
const metadataExtension = "watermillmetadata"

// MessageOf returns the event as a message. They share the bytes of the payload.
func MessageOf(e *events.Event) *message.Message {
	m := message.NewMessage(e.ID, e.Data)
	events.NATS.Encode(e, func(name, value string) { m.Metadata[name] = value })
	if packed := e.Extensions[metadataExtension]; packed != "" {
		var rest map[string]string
		if json.Unmarshal([]byte(packed), &rest) == nil {
			delete(m.Metadata, attributePrefix+metadataExtension)
			maps.Copy(m.Metadata, rest)
		}
	}
	return m
}

// EventOf returns the message as an event. Its id is the UUID, whatever ce-id
// says, or a fresh one when the UUID is empty; source, type and time have
// defaults. It returns an error wrapping [events.ErrInvalid] when an attribute
// is malformed or the message breaks a limit of package events; one of them is
// that all metadata that is no attribute, as JSON, takes at most
// [events.AttributeBytesMax] bytes.
func EventOf(m *message.Message) (events.Event, error) {
	id := m.UUID
	if id == "" {
		id = events.NewID()
	}
	attributes := map[string]string{
		"ce-specversion": "1.0",
		"ce-source":      SourceDefault,
		"ce-type":        TypeDefault,
		"ce-time":        time.Now().UTC().Format(time.RFC3339Nano),
	}
	rest := make(map[string]string)
	for name, value := range m.Metadata {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, attributePrefix) {
			attributes[lower] = value
		} else {
			rest[name] = value
		}
	}
	attributes["ce-id"] = events.PercentEncode(id)
	decoder := events.NATS.Decoder()
	for name, value := range attributes {
		decoder.Header(name, value)
	}
	e, err := decoder.Event(m.Payload)
	if err != nil {
		return events.Event{}, fmt.Errorf("message %q: %w", m.UUID, err)
	}
	if len(rest) > 0 {
		packed, err := json.Marshal(rest)
		if err != nil {
			return events.Event{}, fmt.Errorf("message %q: encode metadata: %w", m.UUID, err)
		}
		e.SetExtension(metadataExtension, string(packed))
		if err := e.Validate(); err != nil {
			return events.Event{}, fmt.Errorf("message %q: %w", m.UUID, err)
		}
	}
	return e, nil
}

// deliveryKey is the context key of the delivery that a message came with.
type deliveryKey struct{}

// DeliveryOf returns where the message whose context this is was read, and which
// attempt at it this is, from 1. ok is false for a context that is not of a
// message from a [Subscriber].
func DeliveryOf(ctx context.Context) (delivery broker.Delivery, attempt int, ok bool) {
	d, ok := ctx.Value(deliveryKey{}).(*broker.GroupDelivery)
	if !ok {
		return broker.Delivery{}, 0, false
	}
	return d.Delivery, d.Attempt, true
}

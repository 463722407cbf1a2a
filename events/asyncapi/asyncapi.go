// Package asyncapi writes AsyncAPI 3 documents out of contracts: which application
// sends and receives which events, on which channels, with which headers, keys and
// replies. A document is about one broker, for each has header names of its own.
package asyncapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/schema"
)

// Broker is one that documents are written for.
type Broker string

// The brokers.
const (
	NATS  Broker = "nats"
	Kafka Broker = "kafka"
)

// Application is a program that takes part, and what it says and hears.
type Application struct {
	Name        string // such as inventory; lower-case, for it begins the ids of operations
	Description string
	// Handles are commands that it receives and replies to, Calls those that it
	// sends and gets the reply to.
	Handles, Calls []events.Descriptor
	// Sends and Receives are events that nobody replies to. A descriptor's topic may
	// be another than its contract's, as that of a signal is.
	Sends, Receives []events.Descriptor
}

// System is everything that a document describes.
type System struct {
	Title, Version, Description string
	// TopicPrefix goes before topics' names on Kafka.
	TopicPrefix string
	// Partitions of every topic.
	Partitions   int
	Applications []Application
}

// node is a JSON object. Encoding sorts its keys, so a document has one form.
type node = map[string]any

// Document returns the AsyncAPI 3.0 document of the system on a broker, as indented
// JSON that ends with a line break. It fails on a contract of which no schema can be
// made, and on two that give one name to different payloads.
func (s System) Document(on Broker) ([]byte, error) {
	if s.Partitions < 1 {
		return nil, errors.New("asyncapi: a topic has at least one partition")
	}
	w := writer{
		system: s, broker: on, binding: events.NATS, channels: node{}, operations: node{}, messages: node{},
		schemas: node{"cloudevent": attributes(on)},
	}
	switch on {
	case NATS:
	case Kafka:
		w.binding = events.Kafka
	default:
		return nil, fmt.Errorf("asyncapi: broker %q: want %s or %s", on, NATS, Kafka)
	}
	for _, application := range s.Applications {
		for _, d := range application.Handles {
			w.command(application, "receive", d)
		}
		for _, d := range application.Calls {
			w.command(application, "send", d)
		}
		for _, d := range application.Sends {
			w.operation(application, "send", d)
		}
		for _, d := range application.Receives {
			w.operation(application, "receive", d)
		}
	}
	if err := errors.Join(w.errs...); err != nil {
		return nil, fmt.Errorf("asyncapi: %w", err)
	}
	info := node{"title": s.Title, "version": s.Version}
	if s.Description != "" {
		info["description"] = s.Description
	}
	var tags []node
	for _, application := range s.Applications {
		tags = append(tags, node{"name": application.Name, "description": application.Description})
	}
	info["tags"] = tags
	document, err := json.MarshalIndent(node{
		"asyncapi": "3.0.0", "info": info, "defaultContentType": events.ContentTypeJSON,
		"channels": w.channels, "operations": w.operations,
		"components": node{"messages": w.messages, "schemas": w.schemas},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("asyncapi: %w", err)
	}
	return append(document, '\n'), nil
}

// writer collects the parts of a document.
type writer struct {
	system                                  System
	broker                                  Broker
	binding                                 events.Binding
	channels, operations, messages, schemas node
	errs                                    []error
}

// command adds the operation of a command and its replies.
func (w *writer) command(a Application, action string, d events.Descriptor) {
	operation := w.operation(a, action, d)
	payload := ""
	if schema.HasReply(d) {
		payload = d.Type + ".reply"
		w.schema(payload, d.Reply)
	}
	w.message(d.Type+".reply", payload, events.Replies, "The positive answer to "+d.Type)
	codes := make([]string, 0, len(d.Rejections)+1)
	for _, code := range d.Rejections {
		codes = append(codes, string(code))
	}
	if !slices.Contains(codes, "revoked") {
		codes = append(codes, "revoked") // what a participant answers to a command that was undone before it ran
	}
	w.schemas[d.Type+".rejected"] = node{
		"type": "object", "required": []string{"code"},
		"properties": node{"code": node{"type": "string", "enum": codes}, "message": node{"type": "string"}},
	}
	w.message(d.Type+".rejected", d.Type+".rejected", events.Replies, "The business no to "+d.Type)
	operation["reply"] = node{
		"address": node{
			"location":    "$message.header#/" + w.header("replyto"),
			"description": "The topic that wants the reply; there is none to a command without it.",
		},
		"channel":  w.channel(events.Replies),
		"messages": []node{w.in(events.Replies, d.Type+".reply"), w.in(events.Replies, d.Type+".rejected")},
	}
}

// operation adds that an application sends or receives what d describes.
func (w *writer) operation(a Application, action string, d events.Descriptor) node {
	payload := ""
	if d.Request != nil {
		payload = d.Type
		w.schema(payload, d.Request)
	}
	what := "The fact "
	if d.Kind == events.KindCommand {
		what = "The command "
	}
	w.message(d.Type, payload, d.Topic, what+d.Type)
	verb := map[string]string{"send": "sends ", "receive": "receives "}[action]
	operation := node{
		"action": action, "channel": w.channel(d.Topic), "messages": []node{w.in(d.Topic, d.Type)},
		"tags":    []node{{"name": a.Name}},
		"summary": "The " + a.Name + " " + verb + d.Type,
	}
	id := a.Name + "." + action + "." + d.Type
	if _, twice := w.operations[id]; twice { // the same event on another topic
		id += ".on." + string(d.Topic)
	}
	w.operations[id] = operation
	return operation
}

// schema adds the schema of a payload, in the dialect of AsyncAPI.
func (w *writer) schema(name string, t reflect.Type) {
	document, err := schema.Generate(name, t)
	if err != nil {
		w.errs = append(w.errs, err)
		return
	}
	var fresh node
	if err := json.Unmarshal(document, &fresh); err != nil {
		w.errs = append(w.errs, fmt.Errorf("schema of %s: %w", name, err))
		return
	}
	// What is left of it means the same in AsyncAPI's own dialect, which is the one
	// that every tool reads.
	delete(fresh, "$schema")
	delete(fresh, "$id")
	if had, ok := w.schemas[name]; ok && !reflect.DeepEqual(had, fresh) {
		w.errs = append(w.errs, fmt.Errorf("two contracts give %s different payloads", name))
	}
	w.schemas[name] = fresh
}

// message adds a message, and the channel of its topic if it is new.
func (w *writer) message(name, payload string, topic events.Topic, summary string) {
	m := node{
		"name": name, "title": name, "summary": summary + ".", "contentType": events.ContentTypeJSON,
		"headers": node{"allOf": []node{
			{"$ref": "#/components/schemas/cloudevent"},
			{"type": "object", "properties": node{w.header("type"): node{"const": name}}},
		}},
		"correlationId": node{"location": "$message.header#/" + w.header("correlationid"), "description": "The saga's id."},
	}
	if payload != "" {
		m["payload"] = node{"$ref": "#/components/schemas/" + payload}
	}
	if w.broker == Kafka {
		m["bindings"] = node{"kafka": node{"key": node{"type": "string", "description": "The partition key, or else the id."}, "bindingVersion": "0.5.0"}}
	}
	w.messages[name] = m
	channel, ok := w.channels[string(topic)].(node)
	if !ok {
		channel = w.newChannel(topic)
		w.channels[string(topic)] = channel
	}
	channel["messages"].(node)[name] = node{"$ref": "#/components/messages/" + name}
}

// newChannel returns the channel of a topic: one Kafka topic, or a family of
// subjects in NATS.
func (w *writer) newChannel(topic events.Topic) node {
	order := "Events of one partition key are in one partition, in order."
	if w.broker == Kafka {
		return node{
			"address": w.system.TopicPrefix + string(topic), "messages": node{}, "description": order,
			"bindings": node{"kafka": node{
				"partitions": w.system.Partitions, "topicConfiguration": node{"cleanup.policy": []string{"delete"}}, "bindingVersion": "0.5.0",
			}},
		}
	}
	partitions := make([]string, w.system.Partitions)
	for i := range partitions {
		partitions[i] = strconv.Itoa(i)
	}
	return node{
		"address": string(topic) + ".{partition}", "messages": node{},
		"description": order + " They are kept in the JetStream stream countermand_" + topic.Domain() + ".",
		"parameters":  node{"partition": node{"enum": partitions, "description": "Murmur2 of the partition key, or else of the id, modulo the number of partitions."}},
	}
}

func (w *writer) channel(topic events.Topic) node { return node{"$ref": "#/channels/" + string(topic)} }

func (w *writer) in(topic events.Topic, message string) node {
	return node{"$ref": "#/channels/" + string(topic) + "/messages/" + message}
}

func (w *writer) header(attribute string) string { return w.binding.Header(attribute) }

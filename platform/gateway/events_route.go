package gateway

import (
	"maps"
	"net/http"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/gateway/expression"
)

// Fact is a fact that may come from outside, as the gateway knows it. A route of
// kind events takes it.
type Fact struct {
	Type   string
	Schema []byte // JSON Schema 2020-12 of the payload
}

// typesMax bounds the types of one route.
const typesMax = 64

// eventsRoute is the target of a route of kind events.
type eventsRoute struct {
	types  map[string]*contract
	to     events.Topic
	key    *expression.Program // makes the partition key; nil when there is none
	guards []guard
	demand *demand
}

func (e *eventsRoute) leads() string { return string(e.to) }

func (e *eventsRoute) serve(g *Gateway, _ *snapshot) handler {
	return func(x *exchange, r *http.Request) { g.acceptEvents(x, r, e) }
}

func readEventsRoute(t *tableReader, rt *route, m mapping) target {
	e := &eventsRoute{types: make(map[string]*contract), guards: rt.guards, demand: rt.demand}
	if rt.pattern != "" && rt.method != http.MethodPost {
		m.failAt(m.at("match"), "match: events come by POST")
	}
	types := m.take("types")
	if types == nil || types.Kind != yaml.SequenceNode || len(types.Content) == 0 || len(types.Content) > typesMax {
		m.failAt(m.at("types"), "types: want a list of 1 to %d facts", typesMax)
		return nil
	}
	for _, node := range types.Content {
		node = resolve(node)
		c := t.table.facts[node.Value]
		switch {
		case c == nil:
			m.failAt(node, "types: %q is unknown, %s", node.Value, instead(sortedKeys(t.table.facts)))
			continue
		case e.types[c.Type] != nil:
			m.failAt(node, "types: %s comes twice", c.Type)
		case e.to != "" && e.to != c.Topic:
			m.failAt(node, "types: %s goes to %s and the ones before to %s: give each topic a route of its own", c.Type, c.Topic, e.to)
		}
		e.types[c.Type], e.to = c, c.Topic
	}
	if text := m.text("key"); text != "" {
		var err error
		if e.key, err = eventScope.Words(text); err != nil {
			m.failAt(m.at("key"), "key: %v", err)
		}
	}
	return e
}

// check finds what the route has against events, and takes their partition keys. The
// problem is the first of: one that is no event, one whose data breaks its schema, a
// guard that refuses. untold is called for each guard that cannot be told.
func (e *eventsRoute) check(r *http.Request, all []incoming, untold func(*guard, error)) *Problem {
	seen := make(map[[2]string]bool)
	var invalid, broken []Violation
	for i := range all {
		in := &all[i]
		c := e.types[in.event.Type]
		key := [2]string{in.event.Source, in.event.ID}
		switch {
		case len(in.faults) > 0: // what else is wrong would follow from these
		case c == nil:
			in.fail(in.at, "attribute %q: this route takes %s", "type", strings.Join(sortedKeys(e.types), ", "))
		case seen[key]:
			in.fail(in.at, "the source and id are those of an earlier event of the batch")
		default:
			seen[key] = true
			violations, _ := c.check(in.document)
			for _, v := range violations {
				broken = append(broken, Violation{Pointer: in.dataAt + v.Pointer, Detail: v.Detail})
			}
		}
		invalid = append(invalid, in.faults...)
	}
	switch {
	case len(invalid) > 0:
		return refuseEvents(codeInvalidEvent, append(invalid, broken...))
	case len(broken) > 0:
		return refuseEvents(codeInvalidRequest, broken)
	}
	for i := range all {
		if p := e.admit(r, &all[i], untold); p != nil {
			return p
		}
	}
	return nil
}

func refuseEvents(code string, violations []Violation) *Problem {
	detail := "Nothing was published: " + count(len(violations), "fault") + " found."
	if len(violations) > violationsMax {
		detail = strings.TrimSuffix(detail, ".") + "; the first are listed."
	}
	p := newProblem(code, detail)
	p.Errors = violations[:min(len(violations), violationsMax)]
	return p
}

// admit runs the guards on an event and sets its partition key.
func (e *eventsRoute) admit(r *http.Request, in *incoming, untold func(*guard, error)) *Problem {
	input := eventInput(r, in)
	for i := range e.guards {
		allowed, err := e.guards[i].allow.Holds(input)
		if err != nil {
			untold(&e.guards[i], err)
		}
		if !allowed {
			p := e.guards[i].problem()
			p.Errors = []Violation{{Pointer: in.at, Detail: "is refused"}}
			return p
		}
	}
	switch {
	case e.key != nil:
		key, err := e.key.Say(input)
		if err != nil || key == "" || len(key) > events.AttributeBytesMax {
			return refuseEvents(codeInvalidEvent, []Violation{{Pointer: in.at, Detail: "has none of what the key of the route is made of"}})
		}
		in.event.PartitionKey = key
	case in.event.PartitionKey == "":
		in.event.PartitionKey = in.event.Subject
	}
	return nil
}

// eventInput gives expressions a request and one of its events.
func eventInput(r *http.Request, in *incoming) expression.Input {
	rest := requestInput(r, func() any { return in.document })
	return func(name string) (any, bool) {
		if name != "event" {
			return rest(name)
		}
		attributes := map[string]string{
			"id": in.event.ID, "source": in.event.Source, "type": in.event.Type, "subject": in.event.Subject,
			"dataschema": in.event.DataSchema, "partitionkey": in.event.PartitionKey,
		}
		maps.Copy(attributes, in.event.Extensions)
		maps.DeleteFunc(attributes, func(_, value string) bool { return value == "" })
		return attributes, true
	}
}

// explain is what [Table.Explain] tells of a request to the route.
func (e *eventsRoute) explain(r *http.Request, body []byte) *Problem {
	all, problem := readEvents(r.Header, body)
	if problem != nil {
		return problem
	}
	return e.check(r, all, func(*guard, error) {})
}

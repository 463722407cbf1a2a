package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/filter"
)

// The transports of a stream.
const (
	transportSSE    = "sse"
	transportPoll   = "poll"
	transportSocket = "websocket"
)

var transports = []string{transportSSE, transportPoll, transportSocket}

// streamRoute is the target of a route of kind stream: events go out by it.
type streamRoute struct {
	id      string
	pattern string
	topic   events.Topic
	guards  []guard

	shown   []*contract
	types   *filter.Filter // the types that the route shows
	filters []any          // what else must hold always; texts may name path parameters
	named   bool           // they do
	fixed   *filter.Filter // types and filters, when they do not

	transports []string
	heartbeat  time.Duration // 0: the gateway's own
	idle       time.Duration // 0: for ever
	origins    []string
	limits     followerLimits

	publish   string       // the id of the route by which events come in
	publishTo *eventsRoute // it
}

// followerLimits bound how many streams of a route may be open; 0 is no limit of its
// own.
type followerLimits struct{ route, tenant, client int }

func (s *streamRoute) leads() string { return string(s.topic) }

func readStreamRoute(t *tableReader, rt *route, m mapping) target {
	s := &streamRoute{id: rt.id, pattern: rt.pattern, guards: rt.guards}
	if rt.pattern != "" && rt.method != http.MethodGet {
		m.failAt(m.at("match"), "match: streams are opened by GET")
	}
	s.readTypes(t, m)
	s.readFilters(m)
	s.transports = readWords(m, "transports", transports)
	s.heartbeat = m.duration("heartbeat", 0)
	if node := m.values["heartbeat"]; node != nil && s.heartbeat < time.Second {
		m.failAt(node, "heartbeat: want at least 1s")
	}
	s.idle = m.duration("idle", 0)
	s.readOrigins(m)
	if limits, ok := m.inner("limits"); ok {
		for name, to := range map[string]*int{"followers": &s.limits.route, "per_tenant": &s.limits.tenant, "per_client": &s.limits.client} {
			if n, given := limits.number(name); given {
				if *to = n; n < 1 {
					limits.failAt(limits.at(name), "%s: want at least 1", name)
				}
			}
		}
		limits.end()
	}
	if s.publish = m.text("publish"); s.publish != "" && !slices.Contains(s.transports, transportSocket) {
		m.failAt(m.at("publish"), "publish: events come in by websocket, which is none of the transports")
	}
	return s
}

// readTypes reads which events the route shows, and finds their topic.
func (s *streamRoute) readTypes(t *tableReader, m mapping) {
	types := m.take("types")
	if types == nil || types.Kind != yaml.SequenceNode || len(types.Content) == 0 || len(types.Content) > typesMax {
		m.failAt(m.at("types"), "types: want a list of 1 to %d facts", typesMax)
		return
	}
	var names []string
	for _, node := range types.Content {
		node = resolve(node)
		c := t.table.facts[node.Value]
		switch {
		case c == nil:
			m.failAt(node, "types: %q is unknown, %s", node.Value, instead(sortedKeys(t.table.facts)))
			continue
		case slices.Contains(names, c.Type):
			m.failAt(node, "types: %s comes twice", c.Type)
		case s.topic != "" && s.topic != c.Topic:
			m.failAt(node, "types: %s comes from %s and the ones before from %s: give each topic a route of its own", c.Type, c.Topic, s.topic)
		}
		names, s.topic, s.shown = append(names, c.Type), c.Topic, append(s.shown, c)
	}
	s.types = filter.Types(names...)
}

var namedParam = regexp.MustCompile(`\{[a-z][a-z0-9_]*\}`)

// readFilters reads what must hold of every event, and checks it with the names of
// parameters in place of their values.
func (s *streamRoute) readFilters(m mapping) {
	node := m.take("filters")
	if node == nil {
		s.fixed = s.types
		return
	}
	if err := node.Decode(&s.filters); err != nil {
		m.failAt(node, "filters: want a list of filter expressions")
		return
	}
	fail := func(pointer, format string, args ...any) {
		m.failAt(nodeAt(node, pointer), "filters%s: %s", strings.ReplaceAll(pointer, "/", ": "), fmt.Sprintf(format, args...))
	}
	compiled, err := filter.Compile(s.filters)
	for _, fault := range compileFaults(err) {
		fail(fault.Pointer, "%s", fault.Detail)
	}
	s.named = walkTexts(s.filters, "", func(pointer, text string) string {
		for _, name := range namedParam.FindAllString(text, -1) {
			switch {
			case !strings.Contains(s.pattern+"/", "/"+name+"/"):
				fail(pointer, "the path has no parameter %s", name)
			case strings.HasSuffix(pointer, "/sql"):
				fail(pointer, "a parameter of the path cannot stand in sql: what a client sends would be read as SQL; use exact")
			}
		}
		return text
	})
	if !s.named {
		s.fixed = filter.All(s.types, compiled)
	}
}

// walkTexts calls change for each text in a decoded document, puts what it returns in
// its place, and reports whether one names a parameter.
func walkTexts(value any, pointer string, change func(pointer, text string) string) (named bool) {
	visit := func(at string, inner any, put func(string)) {
		if text, ok := inner.(string); ok {
			put(change(at, text))
			named = named || namedParam.MatchString(text)
			return
		}
		named = walkTexts(inner, at, change) || named
	}
	switch v := value.(type) {
	case []any:
		for i := range v {
			visit(fmt.Sprintf("%s/%d", pointer, i), v[i], func(text string) { v[i] = text })
		}
	case map[string]any:
		for name := range v {
			visit(pointer+"/"+name, v[name], func(text string) { v[name] = text })
		}
	}
	return named
}

func (s *streamRoute) readOrigins(m mapping) {
	node := m.take("origins")
	if node == nil {
		return
	}
	if node.Kind != yaml.SequenceNode {
		m.failAt(node, "origins: want a list such as [https://shop.example]")
		return
	}
	for _, entry := range node.Content {
		u, err := url.Parse(entry.Value)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Scheme+"://"+u.Host != entry.Value || strings.ContainsAny(u.Host, `*?[\`) {
			m.failAt(entry, "origins: want a scheme and a host, such as https://shop.example")
			continue
		}
		s.origins = append(s.origins, entry.Value)
	}
}

// readWords reads a list of some of the words; all of them when it is not given.
func readWords(m mapping, name string, words []string) []string {
	node := m.take(name)
	if node == nil {
		return words
	}
	var chosen []string
	for _, entry := range node.Content {
		if !slices.Contains(words, entry.Value) || slices.Contains(chosen, entry.Value) {
			m.failAt(entry, "%s: %q is none of %s, or comes twice", name, entry.Value, strings.Join(words, ", "))
		}
		chosen = append(chosen, entry.Value)
	}
	if len(chosen) == 0 {
		m.failAt(node, "%s: want a list of some of %s", name, strings.Join(words, ", "))
	}
	return chosen
}

// link finds the routes that streams take events in by.
func (t *tableReader) link() {
	for _, rt := range t.table.routes {
		s, ok := rt.target.(*streamRoute)
		if !ok || s.publish == "" {
			continue
		}
		for _, other := range t.table.routes {
			if e, ok := other.target.(*eventsRoute); ok && other.id == s.publish {
				s.publishTo = e
			}
		}
		switch {
		case s.publishTo == nil:
			t.faults = append(t.faults, fault{rt.line, fmt.Sprintf("route %s: publish: there is no route %s of kind events", rt.id, s.publish)})
		case !s.publishTo.demand.takesAllOf(rt.demand):
			t.faults = append(t.faults, fault{rt.line, fmt.Sprintf("route %s: publish: route %s does not take every credential that this one takes, so this would be a way around it: let both ask for the same",
				rt.id, s.publish)})
		}
	}
}

// filterFor returns what must hold of the events of one request: what the route says,
// with the parameters of the path, and what keeps tenants apart.
func (s *streamRoute) filterFor(r *http.Request) (*filter.Filter, error) {
	fixed := s.fixed
	if s.named {
		var filters []any
		for _, f := range s.filters {
			filters = append(filters, copyDocument(f))
		}
		walkTexts(filters, "", func(_, text string) string {
			return namedParam.ReplaceAllStringFunc(text, func(name string) string { return r.PathValue(name[1 : len(name)-1]) })
		})
		compiled, err := filter.Compile(filters)
		if err != nil {
			return nil, err
		}
		fixed = filter.All(s.types, compiled)
	}
	tenant := IdentityOf(r.Context()).Tenant
	if tenant == "" {
		return fixed, nil
	}
	own, err := filter.Compile([]any{map[string]any{"exact": map[string]any{tenantExtension: tenant}}})
	return filter.All(own, fixed), err
}

// copyDocument copies a decoded document as far as it can be changed.
func copyDocument(value any) any {
	switch v := value.(type) {
	case []any:
		clone := slices.Clone(v)
		for i := range clone {
			clone[i] = copyDocument(clone[i])
		}
		return clone
	case map[string]any:
		clone := maps.Clone(v)
		for name := range clone {
			clone[name] = copyDocument(clone[name])
		}
		return clone
	}
	return value
}

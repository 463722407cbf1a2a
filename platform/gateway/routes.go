package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"go.yaml.in/yaml/v3"

	"github.com/countermand/countermand/events"
)

const (
	tableVersion  = 1
	tableBytesMax = 1 << 20
)

// Table is a route table that has been read and checked. It never changes, so
// one may be shared and replaced at any time.
type Table struct {
	routes    []*route
	upstreams map[string]upstreamConfig
	auth      authentication
	// undocumented leaves out the documents that tell of the routes.
	undocumented bool
	commands     map[string]*contract
	signals      map[string]*contract
	facts        map[string]*contract
	outcomes     map[string]*outcome    // by command type: of the first route of that command
	first        map[string]*acceptance // by command type: how its first route takes it
	paths        *chi.Mux               // finds routes, and serves nothing
}

// route is one entry of a table.
type route struct {
	id      string
	kind    string
	method  string
	pattern string
	guards  []guard
	demand  *demand
	target  target
	line    int
}

// target is what a route leads to. Each kind has its own type.
type target interface {
	// serve returns the handler of the route within a snapshot.
	serve(g *Gateway, s *snapshot) handler
}

// upstreamConfig is a service to pass requests on to. Two that are equal share
// their connections when a table is replaced.
type upstreamConfig struct {
	url     string
	timeout time.Duration
}

// tableReader reads one table.
type tableReader struct {
	*document
	table     *Table
	scoped    *yaml.Node // what says the scopes of subscriptions
	lookupEnv func(string) (string, bool)
}

// kinds tells, for each kind of route, how to read what is special to it. A
// reader may leave the target out when it has reported why.
var kinds = map[string]func(*tableReader, *route, mapping) target{
	"command": readCommandRoute,
	"events":  readEventsRoute,
	"proxy":   readProxyRoute,
	"signal":  readSignalRoute,
	"stream":  readStreamRoute,
}

// ParseTable reads a route table, in YAML, for those contracts. file is what errors
// call it. The only place where the environment comes in is ${NAME} or
// ${NAME:-default} in the url of an upstream, looked up with lookupEnv.
//
// It reports every fault of the file, joined, each with file and line: what breaks
// [TableSchema], unknown fields, kinds, upstreams and commands, ids and paths that come twice, paths
// that would take requests from the built-in resources, and statuses that make
// no sense.
func ParseTable(file string, data []byte, contracts Contracts, lookupEnv func(string) (string, bool)) (*Table, error) {
	table := &Table{
		upstreams: make(map[string]upstreamConfig),
		commands:  make(map[string]*contract, len(contracts.Commands)),
		signals:   make(map[string]*contract, len(contracts.Signals)),
		facts:     make(map[string]*contract, len(contracts.Facts)),
		outcomes:  make(map[string]*outcome),
		first:     make(map[string]*acceptance),
	}
	if err := table.compile(contracts); err != nil {
		return nil, err // the file's own faults would follow from these
	}
	if len(data) > tableBytesMax {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are allowed", file, len(data), tableBytesMax)
	}
	root, err := parseYAML(file, data)
	if err != nil {
		return nil, err
	}
	reader := &tableReader{document: &document{file: file}, table: table, lookupEnv: lookupEnv}
	reader.read(root)
	reader.link()
	reader.checkSchema(root)
	table.auth.settle(table.routes)
	if reader.scoped != nil && table.auth.builtIn == nil {
		reader.fail(reader.scoped, "auth: subscriptions: nothing asks for a credential, which is what has scopes: set default")
	}
	if err := reader.err(); err != nil {
		return nil, err
	}
	table.index()
	return table, nil
}

// AcceptsByOutbox reports whether a route of the table takes commands without the broker.
func (t *Table) AcceptsByOutbox() bool {
	return slices.ContainsFunc(t.routes, func(rt *route) bool {
		c, ok := rt.target.(commandRoute)
		return ok && c.acceptance.outbox
	})
}

// Topics returns the topics that routes of the table publish events to or show. They
// must exist before it is served.
func (t *Table) Topics() []events.Topic {
	var topics []events.Topic
	for _, rt := range t.routes {
		switch target := rt.target.(type) {
		case *eventsRoute:
			topics = append(topics, target.to)
		case *streamRoute:
			topics = append(topics, target.topic)
		}
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

func (t *Table) compile(contracts Contracts) error {
	var errs []error
	add := func(to map[string]*contract, command Command) {
		c, err := compileContract(command)
		if err != nil {
			errs = append(errs, err)
			return
		}
		to[command.Type] = c
	}
	for _, command := range contracts.Commands {
		add(t.commands, command)
	}
	for _, signal := range contracts.Signals {
		add(t.signals, Command{Type: signal.Type, Topic: events.Signals, Schema: signal.Schema})
	}
	for _, fact := range contracts.Facts {
		add(t.facts, Command{Type: fact.Type, Topic: events.FactTopic(fact.Type), Schema: fact.Schema})
	}
	return errors.Join(errs...)
}

func parseYAML(file string, data []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	if err := decoder.Decode(&first); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s:1: the file is empty", file)
		}
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: want one YAML document", file)
	}
	return first.Content[0], nil
}

func (t *tableReader) read(root *yaml.Node) {
	top, ok := t.mapping(root, "route table")
	if !ok {
		return
	}
	if version, ok := top.number("version"); !ok || version != tableVersion {
		top.failAt(top.at("version"), "version: want %d", tableVersion)
	}
	switch documents := top.text("documents"); documents {
	case "", "public":
	case "none":
		t.table.undocumented = true
	default:
		top.failAt(top.at("documents"), "documents: %q is neither public nor none", documents)
	}
	if auth := top.take("auth"); auth != nil {
		t.readAuth(auth)
	}
	if upstreams := top.take("upstreams"); upstreams != nil {
		t.readUpstreams(upstreams)
	}
	if routes := top.take("routes"); routes != nil {
		t.readRoutes(routes)
	}
	top.end()
}

func (t *tableReader) readUpstreams(node *yaml.Node) {
	all, ok := t.mapping(node, "upstreams")
	if !ok {
		return
	}
	for _, name := range all.names {
		if !idPattern.MatchString(name.Value) {
			t.fail(name, "upstream %q: want a name of lower-case letters, digits and hyphens", name.Value)
		}
		m, ok := t.mapping(all.values[name.Value], "upstream "+name.Value)
		if !ok {
			continue
		}
		upstream := upstreamConfig{timeout: m.duration("timeout", upstreamTimeoutDefault)}
		if written := m.required("url"); written != "" {
			var err error
			if upstream.url, err = t.upstreamURL(written); err != nil {
				m.failAt(m.at("url"), "url: %v", err)
			}
		}
		if upstream.timeout == 0 {
			m.failAt(m.at("timeout"), "timeout: want more than 0s")
		}
		m.end()
		t.table.upstreams[name.Value] = upstream
	}
}

func (t *tableReader) upstreamURL(written string) (string, error) {
	expanded, err := expandEnv(written, t.lookupEnv)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(expanded)
	if err != nil {
		return "", fmt.Errorf("%q is no URL", expanded)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%q: want http or https, a host and at most a path", u.Redacted())
	}
	return u.String(), nil
}

// expandEnv replaces ${NAME} and ${NAME:-default}; as in a shell, the default
// stands in for an empty value too.
func expandEnv(text string, lookupEnv func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		inner, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", errors.New("${ without }")
		}
		name, byDefault, hasDefault := strings.Cut(inner, ":-")
		if !envPattern.MatchString(name) {
			return "", fmt.Errorf("${%s}: want ${NAME} or ${NAME:-default}", inner)
		}
		value, _ := lookupEnv(name)
		if value == "" {
			if !hasDefault {
				return "", fmt.Errorf("the environment variable %s is not set and has no default here", name)
			}
			value = byDefault
		}
		b.WriteString(value)
		text = after
	}
}

var (
	idPattern  = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	envPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// reservedIDs are the routes that are always there.
	reservedIDs = []string{
		routeUnmatched, routeCommands, routeOperations, routeOperationList, routeOperationEvents, routeOpenAPI, routeAsyncAPI, routeDocs,
		"subscriptions", "subscription", "subscription-orders", "subscription-deliveries", "webhook-grants",
	}
)

func (t *tableReader) readRoutes(node *yaml.Node) {
	if node.Kind != yaml.SequenceNode {
		t.fail(node, "routes: want a list")
		return
	}
	ids := make(map[string]int)    // to the line of the first
	shapes := make(map[string]int) // likewise
	for _, entry := range node.Content {
		entry = resolve(entry)
		rt := t.readRoute(entry)
		if rt == nil {
			continue
		}
		if line, twice := ids[rt.id]; twice && rt.id != "" {
			t.fail(entry, "route %s: the id is that of the route in line %d", rt.id, line)
		}
		ids[rt.id] = entry.Line
		shape := rt.method + " " + shapeOf(rt.pattern)
		if line, twice := shapes[shape]; twice && rt.pattern != "" {
			t.fail(entry, "route %s: %s %s takes the same requests as the route in line %d", rt.id, rt.method, rt.pattern, line)
		}
		shapes[shape] = entry.Line
		t.table.routes = append(t.table.routes, rt)
	}
}

func (t *tableReader) readRoute(entry *yaml.Node) *route {
	m, ok := t.mapping(entry, "route")
	if !ok {
		return nil
	}
	rt := &route{id: m.required("id"), line: entry.Line}
	if rt.id != "" {
		m.what = "route " + rt.id
		if !idPattern.MatchString(rt.id) {
			m.failAt(m.at("id"), "id: want lower-case letters, digits and hyphens")
		}
		if slices.Contains(reservedIDs, rt.id) {
			m.failAt(m.at("id"), "id: it is the name of a built-in route")
		}
	}
	if match := m.required("match"); match != "" {
		var err error
		if rt.method, rt.pattern, err = parseMatch(match); err != nil {
			m.failAt(m.at("match"), "match: %v", err)
		}
	}
	kind := m.required("kind")
	read, known := kinds[kind]
	if !known {
		if kind != "" {
			m.failAt(m.at("kind"), "kind: %q is none of %s", kind, strings.Join(sortedKeys(kinds), ", "))
		}
		return rt // which of its fields are unknown depends on the kind
	}
	rt.kind = kind
	rt.demand = t.demandOf(m)
	rt.guards = readGuards(m, guardScopes[kind])
	rt.target = read(t, rt, m)
	m.end()
	return rt
}

// instead tells what could be meant instead, where a name is not one that there is.
func instead(names []string) string {
	if len(names) == 0 {
		return "and there are none"
	}
	return "want one of " + strings.Join(names, ", ")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

package gateway

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

// document is a YAML file that is being read. It collects every fault with its
// line, so that one look at the output mends the whole file.
type document struct {
	file   string
	faults []fault
}

type fault struct {
	line   int
	reason string
}

func (d *document) fail(node *yaml.Node, format string, args ...any) {
	d.faults = append(d.faults, fault{node.Line, fmt.Sprintf(format, args...)})
}

// err returns all faults in the order of their lines, joined.
func (d *document) err() error {
	slices.SortStableFunc(d.faults, func(a, b fault) int { return a.line - b.line })
	errs := make([]error, len(d.faults))
	for i, f := range d.faults {
		errs[i] = fmt.Errorf("%s:%d: %s", d.file, f.line, f.reason)
	}
	return errors.Join(errs...)
}

// mapping is a YAML mapping whose fields are taken one by one. What is left
// over in the end is a fault.
type mapping struct {
	document *document
	node     *yaml.Node
	what     string // such as: route place-order
	names    []*yaml.Node
	values   map[string]*yaml.Node
	taken    map[string]bool
}

func (d *document) mapping(node *yaml.Node, what string) (mapping, bool) {
	node = resolve(node)
	if node.Kind != yaml.MappingNode {
		d.fail(node, "%s: want a mapping", what)
		return mapping{}, false
	}
	m := mapping{document: d, node: node, what: what, values: make(map[string]*yaml.Node), taken: make(map[string]bool)}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := node.Content[i]
		if _, twice := m.values[name.Value]; twice {
			d.fail(name, "%s: field %q comes twice", what, name.Value)
			continue
		}
		m.names = append(m.names, name)
		m.values[name.Value] = resolve(node.Content[i+1])
	}
	return m, true
}

// resolve follows a YAML alias to what it stands for.
func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func (m mapping) fail(format string, args ...any) { m.failAt(m.node, format, args...) }

func (m mapping) failAt(node *yaml.Node, format string, args ...any) {
	m.document.fail(node, "%s: %s", m.what, fmt.Sprintf(format, args...))
}

// take returns the value of a field, nil when it is not given.
func (m mapping) take(name string) *yaml.Node {
	m.taken[name] = true
	return m.values[name]
}

// at returns where to point for a fault of a field.
func (m mapping) at(name string) *yaml.Node {
	if node := m.values[name]; node != nil {
		return node
	}
	return m.node
}

// text returns the text of a field, empty when it is not given.
func (m mapping) text(name string) string {
	node := m.take(name)
	if node == nil {
		return ""
	}
	if node.Kind != yaml.ScalarNode || node.Tag != "!!str" {
		m.failAt(node, "%s: want a text", name)
		return ""
	}
	return node.Value
}

// required is text for a field that must be given.
func (m mapping) required(name string) string {
	if m.values[name] == nil {
		m.taken[name] = true
		m.fail("%s is required", name)
		return ""
	}
	text := m.text(name)
	if node := m.values[name]; text == "" && node.Tag == "!!str" {
		m.failAt(node, "%s is empty", name)
	}
	return text
}

// duration returns a field such as 30s.
func (m mapping) duration(name string, byDefault time.Duration) time.Duration {
	node := m.take(name)
	if node == nil {
		return byDefault
	}
	d, err := time.ParseDuration(node.Value)
	if err != nil || node.Kind != yaml.ScalarNode || d < 0 {
		m.failAt(node, "%s: want a duration such as 30s", name)
		return byDefault
	}
	return d
}

// number returns a whole number, and false when it is not given or not one.
func (m mapping) number(name string) (n int, ok bool) {
	node := m.take(name)
	if node == nil {
		return 0, false
	}
	if node.Tag != "!!int" || node.Decode(&n) != nil {
		m.failAt(node, "%s: want a whole number", name)
		return 0, false
	}
	return n, true
}

// inner returns the mapping of a field, and false when it is not given.
func (m mapping) inner(name string) (mapping, bool) {
	node := m.take(name)
	if node == nil {
		return mapping{}, false
	}
	return m.document.mapping(node, m.what+": "+name)
}

// end faults the fields that nobody took.
func (m mapping) end() {
	var known []string
	for name := range m.taken {
		known = append(known, name)
	}
	slices.Sort(known)
	for _, name := range m.names {
		if !m.taken[name.Value] {
			m.failAt(name, "unknown field %q, %s", name.Value, instead(known))
		}
	}
}

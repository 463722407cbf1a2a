package filter

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/countermand/countermand/events"
)

// Limits of one filter. An event is asked against the filters of every follower, so
// what one of them may cost is bounded.
const (
	BytesMax       = 16 << 10 // of the JSON
	DepthMax       = 8        // of expressions within expressions
	ExpressionsMax = 64
	SQLBytesMax    = 2048 // of one sql expression
)

// Fault is something wrong with a filter.
type Fault struct {
	// Pointer is the JSON Pointer of the place, or the name of the query parameter;
	// empty for the whole.
	Pointer string
	Detail  string
}

// CompileError is the error of this package's compilers: all faults, in order.
type CompileError []Fault

// Error joins the faults.
func (f CompileError) Error() string {
	var b strings.Builder
	for i, fault := range f {
		if i > 0 {
			b.WriteString("; ")
		}
		if fault.Pointer != "" {
			b.WriteString(fault.Pointer + ": ")
		}
		b.WriteString(fault.Detail)
	}
	return b.String()
}

// Parse compiles the filters of a subscription from JSON: an array of filter
// expressions, all of which must hold. An empty array gives the nil filter. The error
// is of type [CompileError].
func Parse(document []byte) (*Filter, error) {
	if len(document) > BytesMax {
		return nil, CompileError{{"", fmt.Sprintf("the filters have %d bytes, at most %d are allowed", len(document), BytesMax)}}
	}
	var value any
	if err := json.Unmarshal(document, &value); err != nil {
		if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
			return nil, CompileError{{string(syntactic.JSONPointer), "no acceptable JSON: " + syntactic.Err.Error() + " at byte " + strconv.FormatInt(syntactic.ByteOffset, 10)}}
		}
		return nil, CompileError{{"", "no acceptable JSON: " + err.Error()}}
	}
	return Compile(value)
}

// Compile is [Parse] for JSON that was decoded already, into the types that
// encoding/json gives an empty interface.
func Compile(value any) (*Filter, error) {
	c := &compiler{}
	list, ok := value.([]any)
	if !ok {
		return nil, CompileError{{"", "want an array of filter expressions"}}
	}
	var f Filter
	var texts []string
	f.root.nodes, texts = c.list(list, "", 1)
	f.text = array(texts)
	if c.expressions > ExpressionsMax {
		c.fail("", "%d expressions, at most %d are allowed", c.expressions, ExpressionsMax)
	}
	switch {
	case len(c.faults) > 0:
		return nil, c.faults
	case len(list) == 0:
		return nil, nil
	case len(f.root.nodes) == 1:
		f.root = f.root.nodes[0]
	}
	return &f, nil
}

// compiler collects what is wrong on its way.
type compiler struct {
	faults      CompileError
	expressions int
}

func (c *compiler) fail(pointer, format string, args ...any) {
	c.faults = append(c.faults, Fault{pointer, fmt.Sprintf(format, args...)})
}

// list compiles expressions. With each comes its canonical text.
func (c *compiler) list(values []any, pointer string, depth int) (nodes []node, texts []string) {
	for i, value := range values {
		if c.expressions > ExpressionsMax {
			return nodes, texts // which the caller tells
		}
		n, text := c.expression(value, pointer+"/"+strconv.Itoa(i), depth)
		nodes, texts = append(nodes, n), append(texts, text)
	}
	return nodes, texts
}

const dialects = "exact, prefix, suffix, all, any, not, sql"

func (c *compiler) expression(value any, pointer string, depth int) (n node, text string) {
	if c.expressions++; depth > DepthMax {
		c.fail(pointer, "expressions are nested deeper than %d", DepthMax)
		return n, ""
	}
	fields, ok := value.(map[string]any)
	if !ok || len(fields) != 1 {
		c.fail(pointer, "want an object with one dialect of %s", dialects)
		return n, ""
	}
	var dialect string
	for dialect, value = range fields { // there is one
	}
	pointer += "/" + escape(dialect)
	var inner string
	switch dialect {
	case "exact":
		n.op = opExact
		n.pairs, inner = c.pairs(value, pointer)
	case "prefix":
		n.op = opPrefix
		n.pairs, inner = c.pairs(value, pointer)
	case "suffix":
		n.op = opSuffix
		n.pairs, inner = c.pairs(value, pointer)
	case "all", "any":
		list, ok := value.([]any)
		if !ok || len(list) == 0 {
			c.fail(pointer, "want an array of at least one filter expression")
			return n, ""
		}
		var texts []string
		if n.op = opAll; dialect == "any" {
			n.op = opAny
		}
		n.nodes, texts = c.list(list, pointer, depth+1)
		inner = array(texts)
	case "not":
		var nested node
		nested, inner = c.expression(value, pointer, depth+1)
		n.op, n.nodes = opNot, []node{nested}
	case "sql":
		source, ok := value.(string)
		if !ok {
			c.fail(pointer, "want a text in CloudEvents SQL")
			return n, ""
		}
		var err error
		if n.sql, err = compileSQL(source); err != nil {
			c.fail(pointer, "%v", err)
		}
		n.op, inner = opSQL, quote(source)
	default:
		c.fail(pointer, "there is no such dialect, only %s", dialects)
	}
	return n, expressionText(dialect, inner)
}

// pairs reads the attributes of exact, prefix and suffix.
func (c *compiler) pairs(value any, pointer string) ([]pair, string) {
	fields, ok := value.(map[string]any)
	if !ok || len(fields) == 0 {
		c.fail(pointer, "want an object of at least one attribute and its value")
		return nil, ""
	}
	var pairs []pair
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		text, ok := fields[name].(string)
		at := pointer + "/" + escape(name)
		switch {
		case !validName(name):
			c.fail(at, "want the name of an attribute: 1 to 20 of a-z and 0-9, and not data")
		case !ok || text == "":
			c.fail(at, "want a text that is not empty")
		case len(text) > events.AttributeBytesMax:
			c.fail(at, "the value has %d bytes, at most %d are allowed", len(text), events.AttributeBytesMax)
		}
		pairs = append(pairs, pair{name, text})
	}
	return pairs, object(pairs)
}

// validName reports the name of an attribute that an event can have.
func validName(name string) bool {
	if name == "" || len(name) > 20 || name == "data" {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
}

// escape makes a text a token of a JSON Pointer.
func escape(token string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(token) }

func quote(text string) string {
	quoted, err := jsontext.AppendQuote(nil, text)
	if err != nil { // not UTF-8: JSON cannot have brought it
		return strconv.Quote(text)
	}
	return string(quoted)
}

func array(elements []string) string { return "[" + strings.Join(elements, ",") + "]" }

func object(pairs []pair) string {
	members := make([]string, len(pairs))
	for i, p := range pairs {
		members[i] = quote(p.name) + ":" + quote(p.value)
	}
	return "{" + strings.Join(members, ",") + "}"
}

func expressionText(dialect, inner string) string { return "{" + quote(dialect) + ":" + inner + "}" }

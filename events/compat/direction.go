package compat

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
)

// direction is the question whether one version reads all that another may write.
type direction struct {
	contract       string
	reader, writer side
	// closed: what the reader does not know is refused, as the gateway refuses it in
	// requests. Everybody else passes over it.
	closed bool
	// fresh: the writer is this version, so it is the writer that can be mended.
	fresh bool
	found []Violation
	seen  map[string]bool // pairs of schemas, one of them a reference at least, that have been compared
}

// side is one of the two versions.
type side struct {
	root any
	name string // for people
}

type object = map[string]any

func (d *direction) judge() []Violation {
	d.seen = make(map[string]bool)
	d.node("", d.reader.root, d.writer.root)
	return d.found
}

func (d *direction) violate(pointer, mend, format string, args ...any) {
	d.found = append(d.found, Violation{
		Contract: d.contract, Pointer: pointer, Breaks: fmt.Sprintf(format, args...),
		Mend: mend + ", or make " + next(d.contract),
	})
}

// node compares two schemas: reader must accept what writer allows.
func (d *direction) node(pointer string, reader, writer any) {
	r, w := resolve(d.reader.root, reader), resolve(d.writer.root, writer)
	if ref(reader) != "" || ref(writer) != "" {
		pair := text(reader) + "\n" + text(writer)
		if d.seen[pair] {
			return
		}
		d.seen[pair] = true
	}
	if r == nil || w == nil {
		d.violate(pointer, "use references into the schema itself", "a reference leads nowhere")
		return
	}
	if !d.types(pointer, r, w) {
		return // what follows would say the same in other words
	}
	d.values(pointer, r, w)
	d.bounds(pointer, r, w)
	d.texts(pointer, r, w)
	d.members(pointer, r, w)
	if items, ok := r["items"]; ok && may(w, "array") {
		d.node(pointer+"/items", items, or(w["items"], true))
	}
	d.rest(pointer, r, w)
}

func ref(schema any) string {
	if o, ok := schema.(object); ok {
		target, _ := o["$ref"].(string)
		return target
	}
	return ""
}

// resolve returns a schema as an object, at the end of its references. What stands
// beside these and narrows them is under its keyword $ref, for [direction.rest]. Nil:
// there is no such schema.
func resolve(root, schema any) object {
	var beside []any
	for range 32 { // of a chain of references
		switch s := schema.(type) {
		case bool:
			schema = object{}
			if !s {
				schema = object{"not": object{}}
			}
		case object:
			target := ref(s)
			if target == "" {
				if beside != nil {
					s = maps.Clone(s)
					s["$ref"] = beside
				}
				return s
			}
			if narrower := narrowing(s); len(narrower) > 0 {
				beside = append(beside, narrower)
			}
			if schema = lookup(root, target); schema == nil {
				return nil
			}
		default:
			return nil
		}
	}
	return nil
}

// narrowing returns the keywords of a reference that say more than where it leads.
func narrowing(reference object) object {
	narrower := make(object)
	for keyword, value := range reference {
		if keyword != "$ref" && !silent(keyword) {
			narrower[keyword] = value
		}
	}
	return narrower
}

func lookup(root any, target string) any {
	path, ok := strings.CutPrefix(target, "#")
	if !ok {
		return nil
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if name == "" {
			continue
		}
		o, ok := root.(object)
		if !ok {
			return nil
		}
		root = o[strings.NewReplacer("~1", "/", "~0", "~").Replace(name)]
	}
	return root
}

func or(value, fallback any) any {
	if value == nil {
		return fallback
	}
	return value
}

// typesOf returns the JSON types that a schema allows; nil: all.
func typesOf(schema object) (types []string) {
	switch t := schema["type"].(type) {
	case string:
		return []string{t}
	case []any:
		for _, one := range t {
			if name, ok := one.(string); ok {
				types = append(types, name)
			}
		}
	}
	return types
}

// may reports whether a schema allows values of that type.
func may(schema object, name string) bool {
	types := typesOf(schema)
	return types == nil || slices.Contains(types, name)
}

func (d *direction) types(pointer string, r, w object) bool {
	readable, written := typesOf(r), typesOf(w)
	if readable == nil {
		return true
	}
	if written == nil {
		d.violate(pointer+"/type", "leave the type as it was", "%s may write any type, and %s read %s only", d.writer.name, d.reader.name, list(readable))
		return false
	}
	for _, name := range written {
		if !slices.Contains(readable, name) && (name != "integer" || !slices.Contains(readable, "number")) {
			d.violate(pointer+"/type", "leave the type as it was", "%s may write %s, and %s read %s only", d.writer.name, name, d.reader.name, list(readable))
			return false
		}
	}
	return true
}

func list(names []string) string { return strings.Join(names, " or ") }

// allowed returns the values that enum or const lists; ok is false when neither does.
func allowed(schema object) (values []any, ok bool) {
	if value, ok := schema["const"]; ok {
		return []any{value}, true
	}
	values, ok = schema["enum"].([]any)
	return values, ok
}

func (d *direction) values(pointer string, r, w object) {
	readable, limited := allowed(r)
	if !limited {
		return
	}
	written, ok := allowed(w)
	if !ok {
		d.violate(pointer+"/enum", "leave the values as they were", "%s may write any value, and %s know %s only", d.writer.name, d.reader.name, text(readable))
		return
	}
	for _, value := range written {
		if !slices.ContainsFunc(readable, func(known any) bool { return reflect.DeepEqual(known, value) }) {
			d.violate(pointer+"/enum", "leave the values as they were", "%s may write %s, which %s do not know", d.writer.name, text(value), d.reader.name)
		}
	}
}

func text(value any) string {
	out, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(out)
}

// bounds compares numeric limits: the reader's must not be tighter.
func (d *direction) bounds(pointer string, r, w object) {
	for _, lower := range []string{"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"} {
		limit, ok := r[lower].(float64)
		if !ok {
			continue
		}
		if got := lowest(lower, w); got < limit {
			d.violate(pointer+"/"+lower, "do not raise the limit", "%s may write less than %s read: %s is %s for them",
				d.writer.name, d.reader.name, lower, text(limit))
		}
	}
	for _, upper := range []string{"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"} {
		limit, ok := r[upper].(float64)
		if !ok {
			continue
		}
		if got := highest(upper, w); got > limit {
			d.violate(pointer+"/"+upper, "do not lower the limit", "%s may write more than %s read: %s is %s for them",
				d.writer.name, d.reader.name, upper, text(limit))
		}
	}
	if step, ok := r["multipleOf"].(float64); ok {
		if got, ok := w["multipleOf"].(float64); !ok || math.Mod(got, step) != 0 {
			d.violate(pointer+"/multipleOf", "do not ask for multiples", "%s may write other than multiples of %s", d.writer.name, text(step))
		}
	}
	if r["uniqueItems"] == true && w["uniqueItems"] != true {
		d.violate(pointer+"/uniqueItems", "do not ask for unique items", "%s may write an item twice", d.writer.name)
	}
}

// lowest returns the least value that a limit of that name lets a writer write, as
// the reader's limit counts it.
func lowest(name string, w object) float64 {
	none := math.Inf(-1)
	if strings.HasPrefix(name, "min") && name != "minimum" {
		none = 0 // lengths
	}
	own, ok := w[name].(float64)
	if ok {
		none = max(none, own)
	}
	switch name {
	case "minimum":
		if limit, ok := w["exclusiveMinimum"].(float64); ok {
			none = max(none, limit)
		}
	case "exclusiveMinimum":
		if limit, ok := w["minimum"].(float64); ok {
			none = max(none, math.Nextafter(limit, math.Inf(-1)))
		}
	}
	return none
}

func highest(name string, w object) float64 {
	none := math.Inf(1)
	if own, ok := w[name].(float64); ok {
		none = own
	}
	switch name {
	case "maximum":
		if limit, ok := w["exclusiveMaximum"].(float64); ok {
			none = min(none, limit)
		}
	case "exclusiveMaximum":
		if limit, ok := w["maximum"].(float64); ok {
			none = min(none, math.Nextafter(limit, math.Inf(1)))
		}
	}
	return none
}

// texts compares what is equal or not.
func (d *direction) texts(pointer string, r, w object) {
	for _, keyword := range []string{"pattern", "format", "contentEncoding", "contentMediaType"} {
		if want, ok := r[keyword]; ok && !reflect.DeepEqual(want, w[keyword]) {
			d.violate(pointer+"/"+keyword, "leave the "+keyword+" as it was", "%s may write text that is not of the %s %s, which %s ask for",
				d.writer.name, keyword, text(want), d.reader.name)
		}
	}
}

// members compares the properties of objects.
func (d *direction) members(pointer string, r, w object) {
	if !may(r, "object") || !may(w, "object") {
		return
	}
	always := names(w["required"])
	for _, name := range names(r["required"]) {
		if !slices.Contains(always, name) {
			mend := "make it optional (omitempty)"
			if d.fresh {
				mend = "write it always, as before"
			}
			d.violate(member(pointer, name), mend, "%s may leave it out, and %s require it", d.writer.name, d.reader.name)
		}
	}
	readable, _ := r["properties"].(object)
	written, _ := w["properties"].(object)
	for _, name := range slices.Sorted(maps.Keys(written)) {
		at := member(pointer, name)
		if known, ok := readable[name]; ok {
			d.node(at, known, written[name])
			continue
		}
		switch others := r["additionalProperties"].(type) {
		case object:
			d.node(at, others, written[name])
		default:
			if d.closed {
				d.violate(at, "keep it, and pass over it", "%s may send it, and %s do not know it: the gateway refuses it, and participants act as if it were not there",
					d.writer.name, d.reader.name)
			}
		}
	}
	if others, ok := w["additionalProperties"].(object); ok {
		for _, name := range slices.Sorted(maps.Keys(readable)) {
			if _, known := written[name]; !known {
				d.node(member(pointer, name), readable[name], others)
			}
		}
		if ours, ok := r["additionalProperties"].(object); ok {
			d.node(pointer+"/additionalProperties", ours, others)
		} else if d.closed && r["additionalProperties"] == false {
			d.violate(pointer+"/additionalProperties", "keep allowing them", "%s may send properties of any name, and %s refuse them", d.writer.name, d.reader.name)
		}
	} else if ours, ok := r["additionalProperties"].(object); ok && w["additionalProperties"] != false {
		d.node(pointer+"/additionalProperties", ours, true)
	}
}

func member(pointer, name string) string {
	return pointer + "/properties/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

func names(list any) (all []string) {
	values, _ := list.([]any)
	for _, value := range values {
		if name, ok := value.(string); ok {
			all = append(all, name)
		}
	}
	return all
}

// judged are the keywords that the functions above know.
var judged = []string{
	"type", "enum", "const", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minLength", "maxLength",
	"minItems", "maxItems", "minProperties", "maxProperties", "multipleOf", "uniqueItems", "pattern", "format",
	"contentEncoding", "contentMediaType", "properties", "required", "additionalProperties", "items",
}

// silent reports a keyword that says nothing about what is valid.
func silent(keyword string) bool {
	switch keyword {
	case "$schema", "$id", "$defs", "definitions", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly":
		return true
	}
	return strings.HasPrefix(keyword, "x-")
}

// rest refuses to judge what it cannot: a keyword such as oneOf must stay as it was.
func (d *direction) rest(pointer string, r, w object) {
	for _, keyword := range slices.Sorted(maps.Keys(r)) {
		if slices.Contains(judged, keyword) || silent(keyword) || d.same(r[keyword], w[keyword], make(map[string]bool)) {
			continue
		}
		d.violate(pointer+"/"+keyword, "leave it as it was", "it has changed, and whether what %s writes is still read cannot be told", d.writer.name)
	}
}

// same reports that two values of a keyword are equal, and all that their references
// lead to, of which it has seen some.
func (d *direction) same(reader, writer any, seen map[string]bool) bool {
	if !reflect.DeepEqual(reader, writer) {
		return false
	}
	switch r := reader.(type) {
	case object:
		if target := ref(r); target != "" && !seen[target] {
			seen[target] = true
			if !d.same(lookup(d.reader.root, target), lookup(d.writer.root, target), seen) {
				return false
			}
		}
		for _, value := range r { // which the writer's equals
			if !d.same(value, value, seen) {
				return false
			}
		}
	case []any:
		for _, value := range r {
			if !d.same(value, value, seen) {
				return false
			}
		}
	}
	return true
}

package certain

import (
	"encoding/json"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// compiler makes rules of schemas.
type compiler struct {
	rules    map[*jsonschema.Schema]*rule // a schema may refer to one that refers to it
	harmless []jsonschema.SchemaExt
	unknown  bool // something was met that is not known
}

const (
	fieldsMax = 64 // of one object: a bit for each
	refsMax   = 16 // of a reference to a reference
)

var (
	// silent are the parts of a schema that demand nothing.
	silent = []string{
		"DraftVersion", "Location", "ID", "Anchor", "DynamicAnchor", "RecursiveAnchor",
		"Title", "Description", "Default", "Comment", "ReadOnly", "WriteOnly", "Examples", "Deprecated",
	}
	// known are the keywords that a rule has.
	known = []string{
		"Bool", "Ref", "Types", "Enum", "Const", "Format", "Extensions",
		"MinLength", "MaxLength", "Pattern",
		"Minimum", "Maximum", "ExclusiveMinimum", "ExclusiveMaximum",
		"Items2020", "MinItems", "MaxItems",
		"Properties", "Required", "AdditionalProperties", "MinProperties", "MaxProperties",
	}
)

// uses reports whether a schema has a keyword beside those. It looks at what fields
// there are: a keyword that a later version of the library learns is not passed over.
func usesBeside(s *jsonschema.Schema, names ...string) bool {
	value := reflect.ValueOf(s).Elem()
	for f := range value.Type().Fields() {
		if f.IsExported() && !slices.Contains(silent, f.Name) && !slices.Contains(names, f.Name) && !value.FieldByIndex(f.Index).IsZero() {
			return true
		}
	}
	return false
}

func (c *compiler) rule(s *jsonschema.Schema) *rule {
	for range refsMax {
		if s.Ref != nil && !usesBeside(s, "Ref") {
			s = s.Ref
		}
	}
	switch r, ok := c.rules[s]; {
	case ok:
		return r
	case s.Bool != nil && *s.Bool:
		return anything
	case s.Bool != nil:
		return never
	case s.Ref != nil || s.DraftVersion != 2020 || usesBeside(s, known...) || !c.harmlessOnly(s.Extensions):
		c.unknown = true
		return never
	}
	r := newRule()
	c.rules[s] = r
	if s.Types != nil && !s.Types.IsEmpty() {
		r.kinds = kindsOf(s.Types)
	}
	c.enum(r, s)
	narrow(&r.length, s.MinLength, s.MaxLength)
	if s.Pattern != nil {
		r.match = matcher(s.Pattern)
	}
	if s.Format != nil {
		r.kinds &= text // of other values a format may think what it likes
		r.format = s.Format.Validate
	}
	bound(r, s)
	narrow(&r.count, s.MinItems, s.MaxItems)
	r.items = anything
	if s.Items2020 != nil {
		r.items = c.rule(s.Items2020)
	}
	c.object(r, s)
	return r
}

func (c *compiler) harmlessOnly(extensions []jsonschema.SchemaExt) bool {
	return !slices.ContainsFunc(extensions, func(e jsonschema.SchemaExt) bool {
		return !slices.ContainsFunc(c.harmless, func(h jsonschema.SchemaExt) bool { return reflect.TypeOf(h) == reflect.TypeOf(e) })
	})
}

func kindsOf(types *jsonschema.Types) (kinds kind) {
	for _, name := range types.ToStrings() {
		switch name {
		case "null":
			kinds |= null
		case "boolean":
			kinds |= boolean
		case "integer":
			kinds |= integer
		case "number":
			kinds |= integer | fraction
		case "string":
			kinds |= text
		case "array":
			kinds |= array
		case "object":
			kinds |= object
		}
	}
	return kinds
}

// narrow takes over the limits that are given.
func narrow(s *span, low, high *int) {
	if low != nil {
		s.low = *low
	}
	if high != nil {
		s.high = *high
	}
}

// enum takes over the values that a schema lists. An array or object among them is
// never met, and neither is a number that is written otherwise.
func (c *compiler) enum(r *rule, s *jsonschema.Schema) {
	var values []any
	switch {
	case s.Enum != nil && s.Const != nil:
		c.unknown = true
	case s.Enum != nil:
		values = s.Enum.Values
	case s.Const != nil:
		values = []any{*s.Const}
	default:
		return
	}
	r.enum = &enum{}
	for _, value := range values {
		switch v := value.(type) {
		case nil:
			r.enum.literals = append(r.enum.literals, "null")
		case bool:
			r.enum.literals = append(r.enum.literals, strconv.FormatBool(v))
		case json.Number:
			if !strings.ContainsAny(v.String(), ".eE") {
				r.enum.literals = append(r.enum.literals, v.String())
			}
		case string:
			r.enum.texts = append(r.enum.texts, v)
		}
	}
	r.kinds &^= fraction | array | object
}

// bound takes over the bounds of numbers. Those of fractions are rounded, and so is what
// is compared with them, so a fraction must be truly within them.
func bound(r *rule, s *jsonschema.Schema) {
	if s.Minimum != nil {
		r.whole.low = ceiling(s.Minimum)
	}
	if s.ExclusiveMinimum != nil {
		r.whole.low = max(r.whole.low, floor(s.ExclusiveMinimum)+1)
	}
	if s.Maximum != nil {
		r.whole.high = floor(s.Maximum)
	}
	if s.ExclusiveMaximum != nil {
		r.whole.high = min(r.whole.high, ceiling(s.ExclusiveMaximum)-1)
	}
	for _, low := range []*big.Rat{s.Minimum, s.ExclusiveMinimum} {
		if low != nil {
			rounded, _ := low.Float64()
			r.around.low = max(r.around.low, rounded)
		}
	}
	for _, high := range []*big.Rat{s.Maximum, s.ExclusiveMaximum} {
		if high != nil {
			rounded, _ := high.Float64()
			r.around.high = min(r.around.high, rounded)
		}
	}
}

// farthest is beyond every integer that is looked at.
const farthest = 1 << 60

// floor returns the largest integer that is not above x, as far as farthest.
func floor(x *big.Rat) int64 {
	whole := new(big.Int).Div(x.Num(), x.Denom()) // rounds down, since the denominator is positive
	switch {
	case whole.CmpAbs(big.NewInt(farthest)) < 0:
		return whole.Int64()
	case whole.Sign() > 0:
		return farthest
	}
	return -farthest
}

func ceiling(x *big.Rat) int64 { return -floor(new(big.Rat).Neg(x)) }

// object takes over what a schema says of objects.
func (c *compiler) object(r *rule, s *jsonschema.Schema) {
	narrow(&r.size, s.MinProperties, s.MaxProperties)
	r.others = anything
	switch others := s.AdditionalProperties.(type) {
	case bool:
		if !others {
			r.others = never
		}
	case *jsonschema.Schema:
		r.others = c.rule(others)
	}
	for name, property := range s.Properties {
		r.fields = append(r.fields, field{name, c.rule(property)})
	}
	for _, name := range s.Required {
		at := r.field([]byte(name))
		if at < 0 {
			at = len(r.fields)
			r.fields = append(r.fields, field{name, r.others})
		}
		r.required |= 1 << at
	}
	if len(r.fields) > fieldsMax {
		c.unknown = true
	}
}

package certain

import "math"

// kind is a set of kinds of values.
type kind uint8

const (
	null kind = 1 << iota
	boolean
	integer  // a number without fraction and exponent
	fraction // any other number
	text
	array
	object
	anyKind = null | boolean | integer | fraction | text | array | object
)

// rule is what one schema demands.
type rule struct {
	kinds kind
	enum  *enum // nil when any value will do

	length span // of a text, in characters
	match  func(text []byte) bool
	format func(any) error

	whole  struct{ low, high int64 }   // bounds of integers, included
	around struct{ low, high float64 } // bounds of fractions, not included

	items *rule
	count span // of items

	fields   map[string]*field
	required uint64 // the bits of fields that must be there
	others   *rule  // of the values of fields that are not known
	size     span   // how many fields there may be
}

type field struct {
	bit  uint64
	rule *rule
}

// enum is a list of allowed values.
type enum struct {
	texts    []string
	literals []string // all others, as they are written
}

// span is the lengths from low to high.
type span struct{ low, high int }

func (s span) holds(n int) bool { return s.low <= n && n <= s.high }

func newRule() *rule {
	all := span{0, math.MaxInt}
	r := &rule{kinds: anyKind, length: all, count: all, size: all}
	r.whole.low, r.whole.high = math.MinInt64, math.MaxInt64
	r.around.low, r.around.high = math.Inf(-1), math.Inf(1)
	return r
}

// anything is the rule of a schema without demands.
var anything = func() *rule {
	r := newRule()
	r.items, r.others = r, r
	return r
}()

// never is the rule of a schema that allows nothing, so nothing is certain.
var never = &rule{}

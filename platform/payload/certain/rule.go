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

	fields   []field
	required uint64 // those that must be there, a bit for each
	others   *rule  // of the values of fields that are not known
	size     span   // how many fields there may be
}

type field struct {
	name string
	rule *rule
}

// field returns which field has that name; -1 for none. There are few, and a map would
// take longer to make the hash of the name.
func (r *rule) field(name []byte) int {
	for i := range r.fields {
		if r.fields[i].name == string(name) {
			return i
		}
	}
	return -1
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

package certain

import (
	"math"
	"regexp/syntax"
	"slices"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// matcher returns what tells whether a text matches an expression. For the commonest
// form, so many characters of one class and nothing else, as in ^[A-Z]{3}$, it looks
// ASCII characters up.
func matcher(expression jsonschema.Regexp) func([]byte) bool {
	whole := func(text []byte) bool { return expression.MatchString(string(text)) }
	class, length, ok := oneClass(expression.String())
	if !ok {
		return whole
	}
	return func(text []byte) bool {
		for _, c := range text {
			if c >= utf8.RuneSelf || !class[c] {
				return whole(text)
			}
		}
		return length.holds(len(text))
	}
}

// oneClass reads an expression of that form: which ASCII characters it takes, and how
// many characters.
func oneClass(expression string) (class [utf8.RuneSelf]bool, length span, ok bool) {
	tree, err := syntax.Parse(expression, syntax.Perl)
	if err != nil || tree.Op != syntax.OpConcat || len(tree.Sub) != 3 ||
		tree.Sub[0].Op != syntax.OpBeginText || tree.Sub[2].Op != syntax.OpEndText {
		return class, length, false
	}
	switch middle := tree.Sub[1]; middle.Op {
	case syntax.OpStar:
		length = span{0, math.MaxInt}
	case syntax.OpPlus:
		length = span{1, math.MaxInt}
	case syntax.OpRepeat:
		if length = (span{middle.Min, middle.Max}); middle.Max < 0 {
			length.high = math.MaxInt
		}
	default:
		return class, length, false
	}
	of := tree.Sub[1].Sub[0]
	if of.Op != syntax.OpCharClass {
		return class, length, false
	}
	for bounds := range slices.Chunk(of.Rune, 2) {
		for c := bounds[0]; c <= min(bounds[1], utf8.RuneSelf-1); c++ {
			class[c] = true
		}
	}
	return class, length, true
}

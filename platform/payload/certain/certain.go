// Package certain tells of JSON documents that they are valid, where that is quickly
// told. What a server is sent is valid nearly always, and a validator that can say what
// is wrong with a document costs many times what it takes to see that nothing is: it
// wants the document decoded first, and makes a fraction of every number.
//
// So it has one answer and no errors: a document is certainly valid, or somebody else
// must look at it. That is also the answer for whatever this package does not know.
package certain

import "github.com/santhosh-tekuri/jsonschema/v6"

// Limits of what is looked at. Beyond them a document is not certain.
const (
	depthMax    = 32 // how deep arrays and objects are nested
	strangerMax = 32 // names in one object that its schema does not know
	digitsMax   = 15 // of a whole number, which then is below 2^53
)

// Checker knows one schema. Make it with [Of]; it is safe for concurrent use. A nil
// Checker is certain of nothing.
type Checker struct{ root *rule }

// Of returns the checker of a schema that was compiled with the library's own regular
// expressions. It is nil when the schema, or one that it refers to, is not of draft
// 2020-12 or uses a keyword that is not known here. Extensions of the types of harmless
// are passed over: none may refuse what the schema beside it allows, where a number that
// is to be an integer is written without fraction and exponent.
func Of(schema *jsonschema.Schema, harmless ...jsonschema.SchemaExt) *Checker {
	c := compiler{rules: make(map[*jsonschema.Schema]*rule), harmless: harmless}
	root := c.rule(schema)
	if c.unknown {
		return nil
	}
	return &Checker{root}
}

// Passes reports whether data is certainly one JSON document that the schema allows, and
// one that all readers read alike: it is UTF-8, holds no U+0000 and no number beyond
// 2^53, and no name comes twice in an object (RFC 7493). False says nothing.
func (c *Checker) Passes(data []byte) bool {
	if c == nil {
		return false
	}
	w := walker{data: data}
	if !w.value(c.root, 0) {
		return false
	}
	w.space()
	return w.at == len(data)
}

// Package compat tells whether contracts may be changed as they were: whether
// programs of the version before and of this one understand each other while both
// run, and what is stored. It judges JSON Schemas, so it needs no code of the
// version before.
//
// A request must be understood by this version when the version before has sent it.
// A reply and a fact must be understood both ways: by readers of the version before,
// which run on, and by readers of this one, since replies are kept in inboxes and
// facts are replayed.
package compat

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/countermand/countermand/events/schema"
)

// Violation is one change that breaks somebody.
type Violation struct {
	Contract string `json:"contract"` // name of the schema: the type of the event
	Pointer  string `json:"pointer"`  // JSON Pointer into the schema; empty: the whole of it
	Breaks   string `json:"breaks"`   // who or what breaks, and how
	Mend     string `json:"mend"`
}

// String returns the violation as one line.
func (v Violation) String() string {
	return fmt.Sprintf("%s#%s: %s; %s", v.Contract, v.Pointer, v.Breaks, v.Mend)
}

// Check returns every violation of the rules between the schemas of the version
// before, by name, and those of this one, sorted by name. Contracts that are new
// break nothing. It fails on a schema that is no JSON.
func Check(before map[string][]byte, now []schema.Schema) ([]Violation, error) {
	var all []Violation
	current := make(map[string]bool, len(now))
	for _, s := range now {
		current[s.Name] = true
		document, ok := before[s.Name]
		if !ok {
			all = append(all, added(before, s)...)
			continue
		}
		old, err := decode(s.Name, document)
		if err != nil {
			return nil, err
		}
		fresh, err := decode(s.Name, s.Document)
		if err != nil {
			return nil, err
		}
		all = append(all, compare(s, old, fresh)...)
	}
	for name := range before {
		if !current[name] {
			all = append(all, removed(current, name))
		}
	}
	slices.SortStableFunc(all, func(a, b Violation) int {
		if a.Contract != b.Contract {
			return strings.Compare(a.Contract, b.Contract)
		}
		return strings.Compare(a.Pointer, b.Pointer)
	})
	return slices.Compact(all), nil
}

func decode(name string, document []byte) (any, error) {
	var root any
	if err := json.Unmarshal(document, &root); err != nil {
		return nil, fmt.Errorf("schema of %s: %w", name, err)
	}
	return root, nil
}

const replySuffix = ".reply"

// added judges a schema that is new. A command that had no reply data has answers
// without data in inboxes and on topics.
func added(before map[string][]byte, s schema.Schema) []Violation {
	command, isReply := strings.CutSuffix(s.Name, replySuffix)
	if _, known := before[command]; !isReply || !known {
		return nil
	}
	return []Violation{{
		Contract: s.Name, Breaks: "this version cannot read answers of the version before, which have no data",
		Mend: "keep the reply of " + command + " without data, or make " + next(command),
	}}
}

func removed(current map[string]bool, name string) Violation {
	if command, isReply := strings.CutSuffix(name, replySuffix); isReply && current[command] {
		return Violation{
			Contract: name, Breaks: "whoever reads the answer in the version before finds no data",
			Mend: "keep the reply, or make " + next(command),
		}
	}
	return Violation{
		Contract: name, Breaks: "events of this type that are under way, or that the version before sends, find nobody",
		Mend: "keep the contract until nobody sends it and the topic holds none any more",
	}
}

// next returns the type that a changed meaning needs.
func next(name string) string {
	name = strings.TrimSuffix(name, replySuffix)
	dot := strings.LastIndex(name, ".v")
	if dot < 0 {
		return "a type of its own"
	}
	n, err := strconv.Atoi(name[dot+2:])
	if err != nil {
		return "a type of its own"
	}
	return name[:dot] + ".v" + strconv.Itoa(n+1)
}

// compare judges two versions of one schema by the rules of its kind.
func compare(s schema.Schema, old, fresh any) []Violation {
	forward := direction{ // this version writes
		contract: s.Name, fresh: true, reader: side{old, "readers of the version before"}, writer: side{fresh, "this version"},
	}
	backward := direction{ // the version before has written
		contract: s.Name, reader: side{fresh, "readers of this version"}, writer: side{old, "the version before"},
	}
	if s.Kind == schema.Request {
		backward.closed = true
		return backward.judge()
	}
	return append(forward.judge(), backward.judge()...)
}

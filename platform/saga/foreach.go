package saga

import (
	"encoding/json"
	"fmt"
)

// ForEach runs Body once for each item, up to Limit at the same time, and ends
// when all have. When one fails, what was done for the others is undone too.
type ForEach[S, I any] struct {
	// Name as of [Step].
	Name string
	// Items returns what to go through. It must be pure, and is asked once, when
	// the saga comes to this node: later changes of the state do not change it. At
	// most 1,000 items.
	Items func(state S) []I
	// Limit of items under way: 16 by default.
	Limit int
	// Body is what to do for one item. Its nodes see the item beside the state.
	Body Node[Each[S, I]]
}

// itemsMax bounds a [ForEach]: each item is kept in the saga until it ends.
const itemsMax = 1000

// Each is what the body of a [ForEach] works on: the state of the saga and one
// item. Folds may write both; an item is seen by its own body only.
type Each[S, I any] struct {
	State S
	Item  I
	Index int // from 0
}

func (f ForEach[S, I]) compile(c typed[S]) *node {
	n := c.named(kindForEach, f.Name)
	n.limit = or(f.Limit, 16)
	if f.Items == nil || f.Body == nil {
		c.fail("for-each %q needs Items and Body", f.Name)
		return n
	}
	if f.Limit < 0 {
		c.fail("for-each %q: the limit %d is negative; leave it out for 16", f.Name, f.Limit)
	}
	n.items = func(state any) ([]json.RawMessage, error) {
		items := f.Items(*state.(*S))
		if len(items) > itemsMax {
			return nil, fmt.Errorf("for-each %s: %d items, at most %d are allowed", f.Name, len(items), itemsMax)
		}
		encoded := make([]json.RawMessage, len(items))
		for i, item := range items {
			data, err := json.Marshal(item)
			if err != nil {
				return nil, fmt.Errorf("encode item %d: %w", i, err)
			}
			encoded[i] = data
		}
		return encoded, nil
	}
	n.enter = func(state any, item []byte, index int) (any, error) {
		each := &Each[S, I]{State: *state.(*S), Index: index}
		if err := json.Unmarshal(item, &each.Item); err != nil {
			return nil, fmt.Errorf("decode item %d: %w", index, err)
		}
		return each, nil
	}
	n.leave = func(state, inner any) ([]byte, error) {
		each := inner.(*Each[S, I])
		*state.(*S) = each.State
		return json.Marshal(each.Item)
	}
	n.add(compileNode(typed[Each[S, I]](c), f.Body))
	return n
}

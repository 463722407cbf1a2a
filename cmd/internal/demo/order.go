package demo

import (
	"fmt"
	"math/rand/v2"
)

// kind of order: what it tries and how it must end.
type kind struct {
	name   string
	share  int // of 100
	sku    string
	least  int64 // quantity
	most   int64
	token  string
	status string // "completed" or "compensated"
	code   string // of the rejection
	copies int    // requests with one Idempotency-Key, at the same time
	back   int64  // how many the customer returns once the order has completed
	note   string // which a model reads; orders with one may need a person's decision
}

// kinds of orders in the demo's mix; their shares add up to 100.
var kinds = []kind{
	{name: "happy", share: 40, sku: "TEA-001", least: 1, most: 5, token: "tok_ok", status: "completed", copies: 1},
	{name: "returned", share: 8, sku: "MUG-001", least: 1, most: 3, token: "tok_ok", status: "completed", copies: 1, back: 1},
	{name: "repeated", share: 10, sku: "MUG-001", least: 1, most: 2, token: "tok_ok", status: "completed", copies: 3},
	{name: "declined", share: 14, sku: "TEA-001", least: 1, most: 3, token: "tok_declined", status: "compensated", code: "card_declined", copies: 1},
	{name: "capture fails", share: 6, sku: "MUG-001", least: 1, most: 2, token: "tok_capture_fails", status: "compensated", code: "capture_failed", copies: 1},
	{name: "out of stock", share: 8, sku: "RARE-001", least: 6, most: 9, token: "tok_ok", status: "compensated", code: "out_of_stock", copies: 1},
	{name: "unknown sku", share: 4, sku: "NONE-404", least: 1, most: 1, token: "tok_ok", status: "compensated", code: "unknown_sku", copies: 1},
	{name: "with a note", share: 7, sku: "TEA-001", least: 1, most: 3, token: "tok_ok", status: "completed", copies: 2, note: "harmless: please gift-wrap it"},
	{name: "with a doubtful note", share: 3, sku: "MUG-001", least: 1, most: 1, token: "tok_ok", status: "completed", copies: 1, note: "it is no fraud that the name on the card is another one"},
}

// path is where orders of the kind are posted.
func (k kind) path() string {
	if k.note != "" {
		return "/v1/reviews"
	}
	return "/v1/orders"
}

func (k kind) noteMember() string {
	if k.note == "" {
		return ""
	}
	return fmt.Sprintf(`,"note":%q`, k.note)
}

// order is one order of the mix.
type order struct {
	kind kind
	key  string
	body []byte
}

// orders returns n orders; the same seed gives the same ones.
func orders(n int, seed uint64) []order {
	random := rand.New(rand.NewPCG(seed, 0x5a6a)) //nolint:gosec // the same orders for the same seed are the point
	all := make([]order, n)
	for i := range all {
		k := pick(random.IntN(100))
		quantity := k.least + random.Int64N(k.most-k.least+1)
		all[i] = order{
			kind: k, key: fmt.Sprintf("demo-%d-%d", seed, i),
			body: fmt.Appendf(nil, `{"customer":"customer-%02d","currency":"EUR","items":[{"sku":%q,"quantity":%d}],"payment":{"token":%q}%s}`,
				random.IntN(20), k.sku, quantity, k.token, k.noteMember()),
		}
	}
	return all
}

func pick(percent int) kind {
	for _, k := range kinds {
		if percent -= k.share; percent < 0 {
			return k
		}
	}
	return kinds[0]
}

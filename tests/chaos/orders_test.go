package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"

	"github.com/countermand/countermand/tests/internal/product"
)

// kind of order: what it tries and how it must end when nothing times out.
type kind struct {
	share  int // of 100
	sku    string
	token  string
	status string
	code   string
	copies int // requests with one Idempotency-Key, one after the other
}

var kinds = []kind{
	{share: 55, sku: "TEA-001", token: "tok_ok", status: "completed", copies: 1},
	{share: 20, sku: "MUG-001", token: "tok_ok", status: "completed", copies: 2},
	{share: 15, sku: "TEA-001", token: "tok_declined", status: "compensated", code: "card_declined", copies: 1},
	{share: 10, sku: "MUG-001", token: "tok_capture_fails", status: "compensated", code: "capture_failed", copies: 1},
}

// order is one order and what its client knows of it.
type order struct {
	kind     kind
	key      string
	customer string
	quantity int64
	id       string // of its operation, once a 202 gave it
}

func (o *order) body() string {
	return product.NewCheckout(o.customer, o.kind.sku, o.quantity, o.kind.token).Body()
}

// newOrders returns n orders; the same seed gives the same ones. Each has a
// customer of its own, by which it is found whatever became of its 202.
func newOrders(n int, seed uint64) []*order {
	random := rand.New(rand.NewPCG(seed, 0))
	all := make([]*order, n)
	for i := range all {
		k, dice := kinds[0], random.IntN(100)
		for _, candidate := range kinds {
			if dice -= candidate.share; dice < 0 {
				k = candidate
				break
			}
		}
		all[i] = &order{kind: k, key: fmt.Sprintf("chaos-%d-%d", seed, i), customer: fmt.Sprintf("customer-%d", i), quantity: 1 + random.Int64N(3)}
	}
	return all
}

// place posts the order as a careful client does: with its key, and again when
// no answer came. It returns an error when there was no answer this time, and
// reports to fault what must never be answered.
func (o *order) place(ctx context.Context, shop product.Shop, fault func(string, ...any)) error {
	for copied := range o.kind.copies {
		answer, err := shop.Place(ctx, o.body(), "Prefer: respond-async", `Idempotency-Key: "`+o.key+`"`)
		if err != nil {
			return err
		}
		if answer.Status == http.StatusServiceUnavailable {
			return fmt.Errorf("answered %s", answer)
		}
		var body product.Accepted
		if err := answer.Decode(&body); err != nil || answer.Status != http.StatusAccepted {
			fault("order %s is answered with %s: %v", o.key, answer, err)
			return nil
		}
		repeated := o.id != "" || copied > 0
		if o.id != "" && o.id != body.ID {
			fault("order %s is operation %s and then %s", o.key, o.id, body.ID)
		}
		if replayed := answer.Header.Get("Idempotency-Replayed") == "true"; repeated && !replayed {
			fault("order %s was accepted twice as if it were new", o.key)
		}
		o.id = body.ID
	}
	return nil
}

// placeAll places orders from that many clients until all are placed or ctx
// ends. What got no answer is returned; nobody knows whether it was accepted.
func placeAll(ctx context.Context, orders []*order, clients int, shop product.Shop, placed func(*order), fault func(string, ...any)) (unanswered []*order) {
	var (
		next = make(chan *order)
		mu   sync.Mutex
		wait sync.WaitGroup
	)
	for range clients {
		wait.Go(func() {
			for o := range next {
				if err := o.place(ctx, shop, fault); err == nil {
					placed(o)
					continue
				}
				mu.Lock()
				unanswered = append(unanswered, o)
				mu.Unlock()
			}
		})
	}
	for _, o := range orders {
		next <- o
	}
	close(next)
	wait.Wait()
	return unanswered
}

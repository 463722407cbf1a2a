package chaos

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// patient clients place orders at a steady rate, each until it is answered, and at
// another gateway each time they are not.
type patient struct {
	shops  []product.Shop
	orders []*order
	fault  func(string, ...any)

	places   chan struct{}  // a token for each order under way
	open     []atomic.Int64 // requests under way, by gateway
	answered atomic.Int64   // orders
	failed   atomic.Int64   // requests that got no answer, or one to come again
	found    atomic.Int64   // orders whose operation an unanswered request had started
	wait     sync.WaitGroup
}

func newPatient(orders []*order, fault func(string, ...any), shops ...product.Shop) *patient {
	const most = 256 // orders at a time
	return &patient{shops: shops, orders: orders, fault: fault, places: make(chan struct{}, most), open: make([]atomic.Int64, len(shops))}
}

// run places orders until enough is closed, and returns those it began, all of
// them answered unless ctx ended.
func (p *patient) run(ctx context.Context, every time.Duration, enough <-chan struct{}) []*order {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	defer p.wait.Wait()
	for i, o := range p.orders {
		select {
		case <-ticker.C:
		case <-enough:
			return p.orders[:i]
		}
		p.places <- struct{}{}
		p.wait.Go(func() {
			p.place(ctx, i, o)
			<-p.places
		})
	}
	return p.orders
}

// place posts the order until it is answered, and its copies after that. Every
// other client waits for the outcome.
func (p *patient) place(ctx context.Context, i int, o *order) {
	prefer := []string{"respond-async", "wait=5"}[i/len(p.shops)%2]
	for copied, attempt := 0, i; copied < o.kind.copies; attempt++ {
		repeated := attempt > i
		id, replayed, err := p.post(ctx, attempt%len(p.shops), o, prefer)
		if err != nil {
			p.failed.Add(1)
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-ctx.Done():
				p.fault("order %s was never answered: %v", o.key, err)
				return
			}
		}
		switch {
		case id == "": // post has said why
			return
		case o.id == "" && repeated && replayed:
			p.found.Add(1)
		case o.id != "" && o.id != id:
			p.fault("order %s is operation %s and then %s", o.key, o.id, id)
		case o.id != "" && !replayed, !repeated && replayed:
			p.fault("order %s, operation %s, attempt %d: Idempotency-Replayed is %t", o.key, id, attempt-i, replayed)
		}
		o.id = id
		copied++
	}
	p.answered.Add(1)
}

var statusLink = regexp.MustCompile(`</v1/operations/([0-9a-f-]+)>; rel="status"`)

// post makes one request and returns the operation that it is answered with.
func (p *patient) post(ctx context.Context, gateway int, o *order, prefer string) (id string, replayed bool, err error) {
	const patience = 20 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p.open[gateway].Add(1)
	defer p.open[gateway].Add(-1)
	answer, err := p.shops[gateway].Place(ctx, o.body(), "Prefer: "+prefer, `Idempotency-Key: "`+o.key+`"`)
	if err != nil {
		return "", false, err
	}
	if answer.Status == http.StatusServiceUnavailable {
		if answer.Header.Get("Retry-After") == "" {
			p.fault("order %s is answered with %s and no Retry-After", o.key, answer)
		}
		return "", false, fmt.Errorf("answered %s", answer)
	}
	match := statusLink.FindStringSubmatch(answer.Header.Get("Link"))
	if match == nil {
		p.fault("order %s is answered with %s", o.key, answer)
		return "", false, nil
	}
	return match[1], answer.Header.Get("Idempotency-Replayed") == "true", nil
}

// awaitOpen waits until some requests are under way at a gateway, or as many orders
// as there can be.
func (p *patient) awaitOpen(t *testing.T, gateway int, some int64) {
	t.Helper()
	err := product.Await(t.Context(), 30*time.Second, func() error {
		if open := p.open[gateway].Load(); open < some && len(p.places) < cap(p.places) {
			return fmt.Errorf("%d requests are under way at gateway %d, and %d orders answered", open, gateway, p.answered.Load())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitAnswers waits until that many more orders are answered.
func (p *patient) awaitAnswers(t *testing.T, more int64) {
	t.Helper()
	want := p.answered.Load() + more
	err := product.Await(t.Context(), 30*time.Second, func() error {
		if is := p.answered.Load(); is < want {
			return fmt.Errorf("%d orders are answered, want %d: %d requests failed so far", is, want, p.failed.Load())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

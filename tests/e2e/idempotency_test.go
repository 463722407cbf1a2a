package e2e

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

// keyed returns an Idempotency-Key header that no other test uses.
func keyed(t *testing.T) string { return `Idempotency-Key: "` + t.Name() + `"` }

func TestARepeatedRequestIsTheSameOperation(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"tok_ok", "tok_slow", "tok_declined"} {
		t.Run(token, func(t *testing.T) {
			t.Parallel()
			order := product.NewCheckout("ada", "TEA-001", 1, token)
			first := place(t, order, keyed(t))
			id := accepted(t, first)
			if replayed := first.Header.Get("Idempotency-Replayed"); replayed != "" {
				t.Errorf("Idempotency-Replayed of the first answer is %q, want none", replayed)
			}
			again := func(headers ...string) product.Answer {
				t.Helper()
				answer := place(t, order, append(headers, keyed(t))...)
				if replayed := answer.Header.Get("Idempotency-Replayed"); replayed != "true" {
					t.Errorf("Idempotency-Replayed is %q in %s, want true", replayed, answer)
				}
				return answer
			}
			if repeated := accepted(t, again()); repeated != id {
				t.Errorf("at once: the id is %s, want %s", repeated, id)
			}
			op, err := shop.Finished(t.Context(), id, endTimeout)
			if err != nil {
				t.Fatal(err)
			}
			if repeated := accepted(t, again("Prefer: respond-async")); repeated != id {
				t.Errorf("after the end: the id is %s, want %s", repeated, id)
			}
			final := again("Prefer: wait=5")
			if repeated := operationOf(t, final); repeated != id {
				t.Errorf("after the end, waiting: the id is %s, want %s", repeated, id)
			}
			if want := op.Status == "completed"; want != (final.Status == http.StatusCreated) {
				t.Errorf("after the end, waiting: answered %s to an operation that ended %s", final, op.Status)
			}
		})
	}
}

func TestAKeyBelongsToOneRequest(t *testing.T) {
	t.Parallel()
	order := product.NewCheckout("ada", "TEA-001", 1, "tok_ok")
	id := accepted(t, place(t, order, keyed(t)))
	refused := func(when string) {
		t.Helper()
		other := order
		other.Items = []product.Item{{SKU: "TEA-001", Quantity: 2}}
		p := problem(t, place(t, other, keyed(t)), http.StatusUnprocessableEntity, "idempotency_key_reused")
		if !strings.HasSuffix(p.Instance, id) {
			t.Errorf("%s: instance is %q, want the operation %s", when, p.Instance, id)
		}
	}
	refused("at once")
	finished(t, id, "completed")
	refused("after the end")
	if order, _, err := shop.Order(t.Context(), id); err != nil || order.Total != 450 {
		t.Errorf("order is %+v (error %v), want what was ordered first", order, err)
	}
}

func TestAKeyOfARefusedRequestIsFree(t *testing.T) {
	t.Parallel()
	problem(t, post(t, `{"customer":"ada"}`, keyed(t)), http.StatusUnprocessableEntity, "invalid_request")
	answer := place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_ok"), keyed(t))
	if replayed := answer.Header.Get("Idempotency-Replayed"); replayed != "" {
		t.Errorf("Idempotency-Replayed is %q, want none: nothing was started before", replayed)
	}
	finished(t, accepted(t, answer), "completed")
}

func TestAKeyThatIsNotValidIsRefused(t *testing.T) {
	t.Parallel()
	order := product.NewCheckout("ada", "TEA-001", 1, "tok_ok")
	for name, header := range map[string][]string{
		"empty":      {"Idempotency-Key: "},
		"too long":   {"Idempotency-Key: " + strings.Repeat("k", 256)},
		"two keys":   {"Idempotency-Key: one", "Idempotency-Key: two"},
		"open quote": {`Idempotency-Key: "one`},
		"not ASCII":  {"Idempotency-Key: clé"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problem(t, place(t, order, header...), http.StatusBadRequest, "idempotency_key_invalid")
		})
	}
}

// TestManyAtOnceWithOneKeyAreOneOperation runs alone, since it counts sagas.
func TestManyAtOnceWithOneKeyAreOneOperation(t *testing.T) {
	const clients = 64
	before := sagaCount(t)
	order := product.NewCheckout("ada", "TEA-001", 1, "tok_ok")
	answers := atOnce(t, clients, func(int) (string, []string) { return order.Body(), []string{keyed(t)} })

	ids := make(map[string]bool)
	fresh := 0
	for _, answer := range answers {
		ids[accepted(t, answer)] = true
		if answer.Header.Get("Idempotency-Replayed") == "" {
			fresh++
		}
	}
	if len(ids) != 1 || fresh != 1 {
		t.Errorf("%d requests made %d operations, %d of them said to be new, want 1 and 1", clients, len(ids), fresh)
	}
	for id := range ids {
		finished(t, id, "completed")
	}
	if after := sagaCount(t); after != before+1 {
		t.Errorf("there were %d sagas and are %d, want one more", before, after)
	}
}

// TestManyAtOnceWithOneKeyAndTwoBodiesAreOneOperation runs alone, since it counts
// sagas.
func TestManyAtOnceWithOneKeyAndTwoBodiesAreOneOperation(t *testing.T) {
	const clients = 64
	before := sagaCount(t)
	answers := atOnce(t, clients, func(i int) (string, []string) {
		return product.NewCheckout("ada", "TEA-001", int64(1+i%2), "tok_ok").Body(), []string{keyed(t)}
	})

	winners := make(map[string]int64) // quantity by id
	for i, answer := range answers {
		if answer.Status != http.StatusAccepted {
			problem(t, answer, http.StatusUnprocessableEntity, "idempotency_key_reused")
			continue
		}
		id, quantity := accepted(t, answer), int64(1+i%2)
		if first, known := winners[id]; known && first != quantity {
			t.Errorf("operation %s was given to two different requests", id)
		}
		winners[id] = quantity
	}
	if len(winners) != 1 {
		t.Fatalf("%d requests made %d operations, want 1", clients, len(winners))
	}
	for id, quantity := range winners {
		finished(t, id, "completed")
		if order, _, err := shop.Order(t.Context(), id); err != nil || order.Total != 450*quantity {
			t.Errorf("order is %+v (error %v), want the total of %d", order, err, quantity)
		}
	}
	if after := sagaCount(t); after != before+1 {
		t.Errorf("there were %d sagas and are %d, want one more", before, after)
	}
}

// atOnce posts n orders from as many clients that start together.
func atOnce(t *testing.T, n int, request func(i int) (body string, headers []string)) []product.Answer {
	t.Helper()
	answers, errs := make([]product.Answer, n), make([]error, n)
	start := make(chan struct{})
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() {
			<-start
			body, headers := request(i)
			answers[i], errs[i] = shop.Place(t.Context(), body, headers...)
		})
	}
	close(start)
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return answers
}

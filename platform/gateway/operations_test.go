package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
)

func TestOperation(t *testing.T) {
	t.Parallel()
	get := func(b *bundle, id string, headers ...string) *httptest.ResponseRecorder {
		return b.do(http.MethodGet, "/v1/operations/"+id, "", headers...)
	}

	t.Run("accepted before the engine has it", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		for _, headers := range [][]string{nil, {"Idempotency-Key: k1"}} {
			id := decode[accepted](t, b.order(headers...)).ID
			w := get(b, id)
			wantStatus(t, w, http.StatusOK)
			op := decode[gateway.Operation](t, w)
			if op.ID != id || op.Status != gateway.StatusAccepted || op.Done || op.Steps == nil {
				t.Errorf("operation %s", w.Body)
			}
			if age := time.Since(op.CreatedAt); headers == nil && (age < 0 || age > time.Minute) {
				t.Errorf("created %s ago", age)
			}
			wantHeader(t, w, "Retry-After", "1")
			wantHeader(t, w, "Cache-Control", "no-store")
		}
	})

	t.Run("running", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		id := decode[accepted](t, b.order()).ID
		b.project(id, gateway.StatusRunning, nil)
		w := get(b, id)
		wantStatus(t, w, http.StatusOK)
		var document map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil {
			t.Fatal(err)
		}
		for _, field := range []string{"id", "status", "done", "saga", "steps", "created_at", "updated_at"} {
			if _, ok := document[field]; !ok {
				t.Errorf("no %s in %s", field, w.Body)
			}
		}
		for _, field := range []string{"result", "error", "Command", "Fingerprint", "Rejection"} {
			if _, ok := document[field]; ok {
				t.Errorf("%s in %s", field, w.Body)
			}
		}
		wantHeader(t, w, "Retry-After", "1")
	})

	t.Run("completed", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		id := decode[accepted](t, b.order()).ID
		b.project(id, gateway.StatusCompleted, nil)
		w := get(b, id)
		wantStatus(t, w, http.StatusOK)
		op := decode[gateway.Operation](t, w)
		if !op.Done || op.Error != nil || !strings.Contains(string(op.Result), `"total":900`) {
			t.Errorf("operation %s", w.Body)
		}
		wantHeader(t, w, "Retry-After", "")
	})

	t.Run("compensated, with the status its route gives the code", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		id := decode[accepted](t, b.order()).ID
		for code, status := range map[events.Code]int{"card_declined": 402, "payment_timeout": 504, "capture_failed": 409} {
			b.project(id, gateway.StatusCompensated, &events.Rejection{Code: code, Message: "no <money>"})
			w := get(b, id)
			wantStatus(t, w, http.StatusOK)
			op := decode[gateway.Operation](t, w)
			p := op.Error
			if !op.Done || p == nil || p.Code != string(code) || p.Status != status || p.Detail != "no <money>" ||
				p.Type != "urn:countermand:problem:"+string(code) || p.Instance != "/v1/operations/"+id || p.Retriable {
				t.Errorf("operation %s", w.Body)
			}
			if !strings.Contains(w.Body.String(), "<money>") {
				t.Errorf("escaped for HTML: %s", w.Body)
			}
		}
		b.project(id, gateway.StatusCompensated, nil)
		if p := decode[gateway.Operation](t, get(b, id)).Error; p.Code != "compensated" || p.Status != 409 {
			t.Errorf("error %+v", p)
		}
	})

	t.Run("abandoned and stuck", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		id := decode[accepted](t, b.order()).ID
		b.project(id, gateway.StatusAbandoned, nil)
		if op := decode[gateway.Operation](t, get(b, id)); !op.Done || op.Error.Code != "abandoned" {
			t.Errorf("operation %+v", op)
		}
		b.project(id, gateway.StatusStuck, nil)
		if op := decode[gateway.Operation](t, get(b, id)); op.Done || op.Error != nil {
			t.Errorf("operation %+v", op)
		}
	})

	t.Run("ids that were never given", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		id := decode[accepted](t, b.order()).ID
		flipped := id[:35] + string("0123456789abcdef"[(strings.IndexByte("0123456789abcdef", id[35])+1)%16])
		for _, invented := range []string{
			flipped, strings.ToUpper(id), "00000000-0000-8000-8000-000000000000", "0190163d-8694-739b-aea5-966c26f8ad91",
			"1", "x", id + "0", strings.ReplaceAll(id, "-", ""), strings.Repeat("-", 36),
		} {
			if invented != id {
				wantProblem(t, get(b, invented), 404, "operation_not_found")
			}
		}
	})

	t.Run("one that the engine knows is shown whoever made its id", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		const id = "0190163d-8694-739b-aea5-966c26f8ad91"
		b.operations.set(gateway.Operation{ID: id, Status: gateway.StatusRunning})
		wantStatus(t, get(b, id), http.StatusOK)
	})

	t.Run("an unchanged operation is a 304", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		id := decode[accepted](t, b.order()).ID
		op := b.project(id, gateway.StatusRunning, nil)
		etag := get(b, id).Header().Get("ETag")
		for _, match := range []string{etag, "*", `"x", ` + etag, strings.TrimPrefix(etag, "W/")} {
			w := get(b, id, "If-None-Match: "+match)
			wantStatus(t, w, http.StatusNotModified)
			wantHeader(t, w, "ETag", etag)
			if w.Body.Len() > 0 {
				t.Errorf("body %q", w.Body)
			}
		}
		op.UpdatedAt = op.UpdatedAt.Add(time.Millisecond)
		b.operations.set(op)
		w := get(b, id, "If-None-Match: "+etag)
		wantStatus(t, w, http.StatusOK)
		if w.Header().Get("ETag") == etag {
			t.Error("the ETag did not change with the operation")
		}
	})

	t.Run("what cannot be read is a 503", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		id := decode[accepted](t, b.order()).ID
		b.operations.fail(errors.New("down"))
		wantProblem(t, get(b, id), 503, "operations_unavailable")
	})

	t.Run("HEAD", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		id := decode[accepted](t, b.order()).ID
		wantStatus(t, b.do(http.MethodHead, "/v1/operations/"+id, ""), http.StatusOK)
	})
}

func TestAnUnkeyedIDIsForgottenAfterADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := setup(t)
		unkeyed := decode[accepted](t, b.order()).ID
		keyed := decode[accepted](t, b.order("Idempotency-Key: k1")).ID
		time.Sleep(24 * time.Hour)
		wantStatus(t, b.do(http.MethodGet, "/v1/operations/"+unkeyed, ""), http.StatusOK)
		time.Sleep(time.Second)
		wantProblem(t, b.do(http.MethodGet, "/v1/operations/"+unkeyed, ""), http.StatusGone, "operation_expired")
		wantStatus(t, b.do(http.MethodGet, "/v1/operations/"+keyed, ""), http.StatusOK)
	})
}

// async sends a request and returns what it is answered with, once it is.
func async(send func() *httptest.ResponseRecorder) <-chan *httptest.ResponseRecorder {
	answer := make(chan *httptest.ResponseRecorder, 1)
	go func() { answer <- send() }()
	return answer
}

func TestWait(t *testing.T) {
	// In each of these time stands still while something can still happen, so the
	// elapsed times are exact.
	run := func(name string, test func(t *testing.T, b *bundle)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, setup(t)) })
		})
	}
	placed := func(b *bundle) string { // the id of the order in flight
		synctest.Wait()
		messages := b.broker.messages()
		return messages[len(messages)-1].PublishID
	}

	run("a completed operation is answered at the notification", func(t *testing.T, b *bundle) {
		began := time.Now()
		answer := async(func() *httptest.ResponseRecorder { return b.order("Prefer: wait=5") })
		id := placed(b)
		before := b.operations.lookUps()
		b.project(id, gateway.StatusCompleted, nil)
		b.gateway.Notify(id)
		w := <-answer
		wantStatus(t, w, http.StatusCreated)
		wantHeader(t, w, "Location", "/v1/orders/"+id)
		wantHeader(t, w, "Content-Location", "/v1/operations/"+id)
		wantHeader(t, w, "Preference-Applied", "wait=5")
		wantHeader(t, w, "Vary", "Prefer")
		if op := decode[gateway.Operation](t, w); op.ID != id || !op.Done || op.Status != gateway.StatusCompleted || op.Result == nil {
			t.Errorf("body %s", w.Body)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("answered after %s, by polling", took)
		}
		if asked := b.operations.lookUps() - before; asked != 1 {
			t.Errorf("%d lookups", asked)
		}
	})

	run("a compensated one is the mapped problem", func(t *testing.T, b *bundle) {
		answer := async(func() *httptest.ResponseRecorder { return b.order("Prefer: wait=5") })
		id := placed(b)
		b.project(id, gateway.StatusCompensated, &events.Rejection{Code: "out_of_stock", Message: "RARE-001 is sold out."})
		b.gateway.Notify(id)
		w := <-answer
		p := wantProblem(t, w, http.StatusConflict, "out_of_stock")
		if p.Instance != "/v1/operations/"+id || p.Title != "Out of stock" || p.Detail != "RARE-001 is sold out." {
			t.Errorf("problem %+v", p)
		}
		wantHeader(t, w, "Link", "</v1/operations/"+id+`>; rel="status"`)
	})

	run("an abandoned one is a 500 and a stuck one a 202", func(t *testing.T, b *bundle) {
		answer := async(func() *httptest.ResponseRecorder { return b.order("Prefer: wait=5") })
		id := placed(b)
		b.project(id, gateway.StatusAbandoned, nil)
		b.gateway.Notify(id)
		wantProblem(t, <-answer, 500, "abandoned")

		answer = async(func() *httptest.ResponseRecorder { return b.order("Prefer: wait=5") })
		id = placed(b)
		b.project(id, gateway.StatusStuck, nil)
		b.gateway.Notify(id)
		w := <-answer
		wantStatus(t, w, http.StatusAccepted)
		if got := decode[accepted](t, w); got.Status != "stuck" || got.ID != id {
			t.Errorf("body %s", w.Body)
		}
	})

	run("an outcome before the ack is not missed", func(t *testing.T, b *bundle) {
		began := time.Now()
		b.broker.then = func(id string) { // the engine is faster than the broker's answer
			go func() {
				b.project(id, gateway.StatusCompleted, nil)
				b.gateway.Notify(id)
			}()
		}
		wantStatus(t, b.order("Prefer: wait=5"), http.StatusCreated)
		if took := time.Since(began); took != 0 {
			t.Errorf("answered after %s", took)
		}
	})

	run("a lost notification costs a second", func(t *testing.T, b *bundle) {
		began := time.Now()
		answer := async(func() *httptest.ResponseRecorder { return b.order("Prefer: wait=5") })
		b.project(placed(b), gateway.StatusCompleted, nil)
		wantStatus(t, <-answer, http.StatusCreated)
		if took := time.Since(began); took != time.Second {
			t.Errorf("answered after %s", took)
		}
	})

	run("when time is up it is a 202", func(t *testing.T, b *bundle) {
		for prefer, want := range map[string]struct {
			took    time.Duration
			applied string
		}{
			"wait=2":                 {2 * time.Second, "wait=2"},
			"respond-async, wait=3":  {3 * time.Second, "respond-async, wait=3"},
			`Wait="4"; x=y, wait=9`:  {4 * time.Second, "wait=4"},
			"wait=3600":              {30 * time.Second, "wait=30"},
			"wait=0":                 {0, "wait=0"},
			"respond-async":          {0, "respond-async"},
			"wait=soon":              {0, ""},
			"wait=-1":                {0, ""},
			"return=minimal":         {0, ""},
			"wait=99999999999999999": {0, ""},
		} {
			began := time.Now()
			w := b.order("Prefer: " + prefer)
			wantStatus(t, w, http.StatusAccepted)
			wantHeader(t, w, "Preference-Applied", want.applied)
			if got := decode[accepted](t, w); got.Status != "accepted" {
				t.Errorf("%s: body %s", prefer, w.Body)
			}
			if took := time.Since(began); took != want.took {
				t.Errorf("%s: answered after %s, want %s", prefer, took, want.took)
			}
		}
	})

	run("draining ends waits and starts none", func(t *testing.T, b *bundle) {
		began := time.Now()
		answer := async(func() *httptest.ResponseRecorder { return b.order("Prefer: wait=30") })
		placed(b)
		b.gateway.Drain()
		b.gateway.Drain()
		wantStatus(t, <-answer, http.StatusAccepted)
		wantStatus(t, b.order("Prefer: wait=30"), http.StatusAccepted)
		if took := time.Since(began); took != 0 {
			t.Errorf("answered after %s", took)
		}
	})

	run("a client that leaves ends its wait only", func(t *testing.T, b *bundle) {
		ctx, leave := context.WithCancel(t.Context())
		answer := async(func() *httptest.ResponseRecorder {
			return b.doContext(ctx, http.MethodPost, "/v1/orders", order, "Prefer: wait=30")
		})
		placed(b)
		leave()
		<-answer
		if n := len(b.broker.messages()); n != 1 {
			t.Errorf("%d messages", n)
		}
	})

	run("while operations cannot be read it waits on", func(t *testing.T, b *bundle) {
		b.operations.fail(errors.New("down"))
		answer := async(func() *httptest.ResponseRecorder { return b.order("Prefer: wait=5") })
		id := placed(b)
		time.Sleep(1500 * time.Millisecond)
		b.operations.fail(nil)
		b.project(id, gateway.StatusCompleted, nil)
		wantStatus(t, <-answer, http.StatusCreated)
	})

	run("GET waits for the end", func(t *testing.T, b *bundle) {
		id := decode[accepted](t, b.order()).ID
		began := time.Now()
		answer := async(func() *httptest.ResponseRecorder {
			return b.do(http.MethodGet, "/v1/operations/"+id, "", "Prefer: wait=10")
		})
		synctest.Wait()
		b.project(id, gateway.StatusRunning, nil)
		b.gateway.Notify(id)
		synctest.Wait()
		b.project(id, gateway.StatusCompleted, nil)
		b.gateway.Notify(id)
		w := <-answer
		wantStatus(t, w, http.StatusOK)
		wantHeader(t, w, "Preference-Applied", "wait=10")
		if op := decode[gateway.Operation](t, w); !op.Done {
			t.Errorf("body %s", w.Body)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("answered after %s", took)
		}
	})

	run("GET with a known version waits for a change", func(t *testing.T, b *bundle) {
		id := decode[accepted](t, b.order()).ID
		op := b.project(id, gateway.StatusRunning, nil)
		etag := b.do(http.MethodGet, "/v1/operations/"+id, "").Header().Get("ETag")
		get := func() *httptest.ResponseRecorder {
			return b.do(http.MethodGet, "/v1/operations/"+id, "", "Prefer: wait=10", "If-None-Match: "+etag)
		}
		began := time.Now()
		wantStatus(t, get(), http.StatusNotModified)
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("answered after %s", took)
		}
		answer := async(get)
		synctest.Wait()
		op.UpdatedAt = time.Now()
		b.operations.set(op)
		b.gateway.Notify(id)
		w := <-answer
		wantStatus(t, w, http.StatusOK)
		if op := decode[gateway.Operation](t, w); op.Done {
			t.Errorf("body %s", w.Body)
		}
	})

	run("outcome events wake who waits", func(t *testing.T, b *bundle) {
		reader := &fakeReader{deliveries: make(chan broker.Delivery)}
		ctx, stop := context.WithCancel(t.Context())
		listening := make(chan error, 1)
		go func() { listening <- b.gateway.ListenOutcomes(ctx, reader, undecoded) }()
		began := time.Now()
		answer := async(func() *httptest.ResponseRecorder { return b.order("Prefer: wait=5") })
		id := placed(b)
		b.project(id, gateway.StatusCompleted, nil)
		reader.deliveries <- broker.Delivery{Event: events.Event{CorrelationID: id}}
		wantStatus(t, <-answer, http.StatusCreated)
		if took := time.Since(began); took != 0 {
			t.Errorf("answered after %s", took)
		}
		stop()
		if err := <-listening; err != nil {
			t.Errorf("after its context: %v", err)
		}
		close(reader.deliveries)
		if err := b.gateway.ListenOutcomes(t.Context(), reader, undecoded); err == nil {
			t.Error("want the reader's error")
		}
	})

	t.Run("too many waits are answered at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, func(c *gateway.Config, _ *gateway.Deps) { c.WaitsMax = 1 })
			first := async(func() *httptest.ResponseRecorder { return b.order("Prefer: wait=5") })
			placed(b)
			began := time.Now()
			w := b.order("Prefer: wait=5")
			wantStatus(t, w, http.StatusAccepted)
			wantHeader(t, w, "Preference-Applied", "")
			if took := time.Since(began); took != 0 {
				t.Errorf("answered after %s", took)
			}
			<-first
			b.order("Prefer: wait=5")
			if took := time.Since(began); took != 10*time.Second {
				t.Errorf("the freed place was not given again: %s", took)
			}
		})
	})
}

// fakeReader delivers from a channel, and fails when it is closed.
type fakeReader struct{ deliveries chan broker.Delivery }

func (r *fakeReader) Next(ctx context.Context, _ int) ([]broker.Delivery, error) {
	select {
	case d, ok := <-r.deliveries:
		if !ok {
			return nil, errors.New("closed")
		}
		return []broker.Delivery{d}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *fakeReader) Close() {}

// undecoded has every outcome read.
func undecoded(*events.Event) (gateway.Operation, bool) { return gateway.Operation{}, false }

package payment_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/services/payment"
)

func authorize(r *rig, order, token string) events.Event {
	r.T.Helper()
	return consumertest.Command(r.T, shop.AuthorizePayment, order, shop.AuthorizePaymentRequest{
		OrderID: order, Amount: 2100, Currency: "EUR", Token: token,
	})
}

func void(r *rig, order string, undoes events.Event) events.Event {
	r.T.Helper()
	e := consumertest.Command(r.T, shop.VoidPayment, order, shop.VoidPaymentRequest{OrderID: order})
	e.Undoes = undoes.ID
	return e
}

func capture(r *rig, order string) events.Event {
	r.T.Helper()
	return consumertest.Command(r.T, shop.CapturePayment, order, shop.CapturePaymentRequest{OrderID: order})
}

// expect compares the status that the read API shows.
func (r *rig) expect(order, status string) {
	r.T.Helper()
	want := fmt.Sprintf(`{"order_id":"%s","status":"%s","amount":2100,"currency":"EUR"}`+"\n", order, status)
	if code, contentType, body := r.get("/v1/payments/" + order); code != http.StatusOK || contentType != "application/json" || body != want {
		r.T.Errorf("%d %s %s, want %s", code, contentType, body, want)
	}
}

func TestAuthorizeAndCapture(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := events.NewID()
	e := authorize(r, order, payment.TokenOK)
	var ids [2]string
	for i := range ids { // the second is a redelivery
		reply, code := consumertest.Do[shop.PaymentAuthorized](r.Rig, e)
		if code != "" || reply.AuthorizationID == "" {
			t.Errorf("code %q, %+v", code, reply)
		}
		ids[i] = reply.AuthorizationID
	}
	if ids[0] != ids[1] {
		t.Errorf("two authorizations: %q", ids)
	}
	r.expect(order, "authorized")

	take := capture(r, order)
	for _, e := range []events.Event{take, take, capture(r, order)} {
		if reply, code := consumertest.Do[shop.PaymentCaptured](r.Rig, e); code != "" || reply.CapturedAmount != 2100 {
			t.Errorf("code %q, %+v", code, reply)
		}
	}
	r.expect(order, "captured")
}

func TestDeclined(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.settle()
	for _, token := range []string{payment.TokenDeclined, "tok_of_nobody"} {
		order := events.NewID()
		e := authorize(r, order, token)
		for range 2 {
			if _, code := consumertest.Do[shop.PaymentAuthorized](r.Rig, e); code != shop.CardDeclined {
				t.Errorf("%s: code %q", token, code)
			}
		}
		r.expect(order, "declined")
	}
}

// Nobody should wait for a poll to learn that a card was declined.
func TestDeclinedSoon(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.settle()
	consumertest.Do[shop.PaymentAuthorized](r.Rig, authorize(r, events.NewID(), payment.TokenOK)) // everything runs
	const rounds = 10
	begin := time.Now()
	for range rounds {
		consumertest.Do[shop.PaymentAuthorized](r.Rig, authorize(r, events.NewID(), payment.TokenDeclined))
	}
	if took := time.Since(begin) / rounds; took > 500*time.Millisecond {
		t.Errorf("a declined authorization takes %s", took)
	} else {
		t.Logf("a declined authorization takes %s", took)
	}
}

func TestCaptureFails(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := events.NewID()
	authorized := authorize(r, order, payment.TokenCaptureFails)
	if _, code := consumertest.Do[shop.PaymentAuthorized](r.Rig, authorized); code != "" {
		t.Errorf("code %q", code)
	}
	take := capture(r, order)
	for range 2 {
		if _, code := consumertest.Do[shop.PaymentCaptured](r.Rig, take); code != shop.CaptureFailed {
			t.Errorf("code %q", code)
		}
	}
	r.expect(order, "authorized") // the rejection left no write
	undo := void(r, order, authorized)
	for _, e := range []events.Event{undo, undo, void(r, order, authorized)} {
		if _, code := consumertest.Do[events.None](r.Rig, e); code != "" {
			t.Errorf("void: code %q", code)
		}
	}
	r.expect(order, "voided")
}

func TestSlow(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.settle()
	order := events.NewID()
	e := authorize(r, order, payment.TokenSlow)
	begin := time.Now()
	r.Send(e)
	r.Await(1, "select count(*) from payment where status = 'authorizing'")
	r.expect(order, "authorizing")
	r.Send(e) // a redelivery meanwhile changes nothing and gets no reply of its own
	reply, code := consumertest.Answer[shop.PaymentAuthorized](r.Rig, e)
	if took := time.Since(begin); code != "" || reply.AuthorizationID == "" || took < 3*time.Second || took > 8*time.Second {
		t.Errorf("after %s: code %q, %+v", took, code, reply)
	}
	r.expect(order, "authorized")
	if again, _ := consumertest.Do[shop.PaymentAuthorized](r.Rig, e); again != reply {
		t.Errorf("a redelivery is answered with %+v, want %+v", again, reply)
	}
}

// The process that took the command is killed before the answer is due: here its
// settler never runs. Another process sends the answer, once.
func TestAnswersOutliveTheProcess(t *testing.T) {
	t.Parallel()
	r := setup(t)
	var sent []events.Event
	for range 120 { // more than one transaction of the settler
		sent = append(sent, authorize(r, events.NewID(), payment.TokenDeclined))
		r.Send(sent[len(sent)-1])
	}
	r.Await(len(sent), "select count(*) from payment where status = 'authorizing' and settle_at is not null")
	r.settleElsewhere()
	r.settleElsewhere()
	for _, e := range sent {
		if _, code := consumertest.Answer[shop.PaymentAuthorized](r.Rig, e); code != shop.CardDeclined {
			t.Errorf("code %q", code)
		}
	}
	r.Await(len(sent), "select count(*) from payment where status = 'declined' and settle_at is null")
	if written := consumertest.Read[int](r.Rig, "select last_value from outbox_id"); written != len(sent) {
		t.Errorf("%d replies were written to the outbox for %d commands", written, len(sent))
	}
}

func TestNeverAnsweredIsVoided(t *testing.T) {
	t.Parallel()
	r := setup(t)
	r.settle()
	for _, token := range []string{payment.TokenNever, payment.TokenSlow} {
		order := events.NewID()
		e := authorize(r, order, token)
		r.Send(e)
		r.Await(1, "select count(*) from payment where status = 'authorizing'")
		if _, code := consumertest.Do[events.None](r.Rig, void(r, order, e)); code != "" {
			t.Errorf("void: code %q", code)
		}
		r.expect(order, "voided")
		if _, code := consumertest.Do[shop.PaymentAuthorized](r.Rig, e); code != "revoked" {
			t.Errorf("%s: the command that comes again has code %q", token, code)
		}
	}
	if n := consumertest.Read[int](r.Rig, "select count(*) from payment where settle_at is not null"); n != 0 {
		t.Errorf("%d voided payments will be settled", n)
	}
}

func TestVoidBeforeAuthorize(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := events.NewID()
	late := authorize(r, order, payment.TokenOK)
	if _, code := consumertest.Do[events.None](r.Rig, void(r, order, late)); code != "" {
		t.Errorf("void: code %q", code)
	}
	if _, code := consumertest.Do[shop.PaymentAuthorized](r.Rig, late); code != "revoked" {
		t.Errorf("the late command has code %q", code)
	}
	// A void that undoes nothing known is harmless as well.
	if _, code := consumertest.Do[events.None](r.Rig, consumertest.Command(t, shop.VoidPayment, order, shop.VoidPaymentRequest{OrderID: order})); code != "" {
		t.Errorf("void: code %q", code)
	}
	if n := consumertest.Read[int](r.Rig, "select count(*) from payment"); n != 0 {
		t.Errorf("%d payments, want none", n)
	}
}

// A settler that finds nobody waiting lets the money go.
func TestAnswerThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	r := setup(t)
	order := events.NewID()
	r.Send(authorize(r, order, payment.TokenSlow))
	r.Await(1, "select count(*) from payment where status = 'authorizing'")
	if _, err := r.Pool.Exec(t.Context(), "update inbox set status = 'revoked'"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Pool.Exec(t.Context(), "update payment set settle_at = now()"); err != nil {
		t.Fatal(err)
	}
	r.settleElsewhere()
	r.Await(1, "select count(*) from payment where settle_at is null")
	r.expect(order, "voided")
}

func TestCommandsThatCanNeverWorkAreSetAside(t *testing.T) {
	t.Parallel()
	r := setup(t)
	captured, voided := events.NewID(), events.NewID()
	for _, order := range []string{captured, voided} {
		consumertest.Do[shop.PaymentAuthorized](r.Rig, authorize(r, order, payment.TokenOK))
	}
	consumertest.Do[shop.PaymentCaptured](r.Rig, capture(r, captured))
	consumertest.Do[events.None](r.Rig, consumertest.Command(t, shop.VoidPayment, voided, shop.VoidPaymentRequest{OrderID: voided}))
	negative := events.NewID()
	for _, e := range []events.Event{
		consumertest.Command(t, shop.VoidPayment, captured, shop.VoidPaymentRequest{OrderID: captured}),
		capture(r, voided),
		capture(r, events.NewID()),
		authorize(r, captured, payment.TokenOK), // another command for the same order
		authorize(r, "order", payment.TokenOK),
		consumertest.Command(t, shop.AuthorizePayment, negative, shop.AuthorizePaymentRequest{OrderID: negative, Amount: -1, Currency: "EUR", Token: payment.TokenOK}),
	} {
		r.Send(e)
	}
	r.Await(6, "select count(*) from dead_letter")
	if attempts := consumertest.Read[int](r.Rig, "select max(attempts) from dead_letter"); attempts != 1 {
		t.Errorf("one was tried %d times", attempts)
	}
	r.expect(captured, "captured")
	r.expect(voided, "voided")
}

func TestTheSettlersQueryUsesItsIndex(t *testing.T) {
	t.Parallel()
	r := setup(t)
	_, err := r.Pool.Exec(t.Context(), `
		insert into payment (order_id, amount, currency, token, status, authorization_id, deferred_key, settle_at)
		select gen_random_uuid(), 1, 'EUR', 'tok_slow', case when n % 1000 = 0 then 'authorizing' else 'captured' end,
			gen_random_uuid(), gen_random_uuid(), case when n % 1000 = 0 then now() end
		from generate_series(1, 20000) as n`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Pool.Exec(t.Context(), "analyze payment"); err != nil {
		t.Fatal(err)
	}
	plan := consumertest.Read[json.RawMessage](r.Rig, `explain (format json)
		select order_id from payment where settle_at <= now() order by settle_at limit 50 for update skip locked`)
	var nodes []struct{ Plan planNode }
	if err := json.Unmarshal(plan, &nodes); err != nil {
		t.Fatal(err)
	}
	if !nodes[0].Plan.uses("payment_due") {
		t.Errorf("plan without payment_due: %s", plan)
	}
}

type planNode struct {
	IndexName string `json:"Index Name"`
	Plans     []planNode
}

func (n planNode) uses(index string) bool {
	if n.IndexName == index {
		return true
	}
	for _, below := range n.Plans {
		if below.uses(index) {
			return true
		}
	}
	return false
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	r := setup(t)
	for path, code := range map[string]string{
		"/v1/payments/" + events.NewID(): "payment_not_found", "/v1/payments/42": "payment_not_found",
		"/v1/payments": "not_found", "/": "not_found",
	} {
		status, contentType, body := r.get(path)
		var problem struct {
			Code   string `json:"code"`
			Status int    `json:"status"`
		}
		if err := json.Unmarshal([]byte(body), &problem); err != nil {
			t.Errorf("%s: %v in %q", path, err, body)
		}
		if fmt.Sprint(status, contentType, problem.Status, problem.Code) != fmt.Sprint(404, "application/problem+json", 404, code) {
			t.Errorf("%s: %d %s %s", path, status, contentType, body)
		}
	}
	r.Pool.Close()
	if status, _, body := r.get("/v1/payments/" + events.NewID()); status != http.StatusServiceUnavailable {
		t.Errorf("without a database: %d %s", status, body)
	}
}

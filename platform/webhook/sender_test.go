package webhook_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/webhook"
)

func TestPublishedEventsReachTheirSubscribers(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, nil)
	b := r.feed()
	r.send()
	s := r.subscribe(sink.URL+"/hook?a=b", func(s *webhook.Subscription) { s.Types = []string{placed.Type()} })
	r.untilState(s.ID, webhook.Active)

	e := fact(t, "e-1", "key")
	e.Subject, e.ReplyTo = "größe", "saga.replies"
	e.SetExtension("tenantid", "")
	other, err := shipped.New("e-2", "/shop", order{"2"}, time.Now().UTC())
	if err != nil {
		t.Fatal(err)
	}
	audit, err := secret.New("e-3", "/shop", order{"3"}, time.Now().UTC())
	if err != nil {
		t.Fatal(err)
	}
	for _, receipt := range b.PublishBatch(t.Context(), []broker.Message{
		{Topic: shipped.Topic(), Event: other}, {Topic: placed.Topic(), Event: audit}, {Topic: placed.Topic(), Event: e},
	}) {
		if receipt.Err != nil {
			t.Fatal(receipt.Err)
		}
	}
	got := sink.untilGot(t, 1)[0]
	delivered := r.untilEnded(s.ID, 1, webhook.DeliveryDelivered)[0]
	for name, want := range map[string]string{
		"Ce-Id": "e-1", "Ce-Source": "/shop", "Ce-Type": placed.Type(), "Ce-Specversion": "1.0", "Ce-Subject": "gr%C3%B6%C3%9Fe",
		"Ce-Partitionkey": "key", "Content-Type": "application/json", "Ce-Replyto": "", "Authorization": "",
		"Webhook-Request-Origin": "hooks.example.com", "Webhook-Id": delivered.ID,
	} {
		if value := got.header.Get(name); value != want {
			t.Errorf("%s: %q, want %q", name, value, want)
		}
	}
	if string(got.body) != `{"id":"e-1"}` {
		t.Errorf("body %s", got.body)
	}
	if err := verify(t, s.Signing[0].Secret, got); err != nil {
		t.Error(err)
	}
	if all := r.deliveries(s.ID, ""); len(all) != 1 || all[0].Attempts != 1 || all[0].Status != http.StatusOK {
		t.Errorf("deliveries %+v", all)
	}
}

func TestStructuredModeCredentialsAndHeaders(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, nil)
	r.send()
	s := r.active(sink.URL, func(s *webhook.Subscription) {
		s.ProtocolSettings = &webhook.Settings{ContentMode: "structured", Headers: map[string]string{"X-Shop": "tea"}}
		s.SinkCredential = &webhook.Credential{Type: "ACCESSTOKEN", AccessToken: "t0ken"}
	})
	e := fact(t, "e-1", "k")
	e.SetExtension("undoestime", "2026-01-01T00:00:00Z")
	r.match(e)
	got := sink.untilGot(t, 1)[0]
	var event struct {
		ID, Source, Type, Undoestime string
		Data                         order
	}
	if err := json.Unmarshal(got.body, &event); err != nil {
		t.Fatal(err)
	}
	if event.ID != "e-1" || event.Type != placed.Type() || event.Data.ID != "e-1" || event.Undoestime != "" {
		t.Errorf("event %+v", event)
	}
	if h := got.header; h.Get("Content-Type") != "application/cloudevents+json; charset=utf-8" || h.Get("X-Shop") != "tea" ||
		h.Get("Authorization") != "Bearer t0ken" || h.Get("Ce-Id") != "" {
		t.Errorf("header %v", h)
	}
	if err := verify(t, s.Signing[0].Secret, got); err != nil {
		t.Error(err)
	}
}

func TestAnswersDecideOverADelivery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status   int
		want     string // state of the delivery after the first answer, which 200s follow
		requests int
	}{
		{200, webhook.DeliveryDelivered, 1},
		{202, webhook.DeliveryDelivered, 1},
		{204, webhook.DeliveryDelivered, 1},
		{404, webhook.DeliveryDelivered, 2},
		{408, webhook.DeliveryDelivered, 2},
		{409, webhook.DeliveryDelivered, 2},
		{425, webhook.DeliveryDelivered, 2},
		{429, webhook.DeliveryDelivered, 2},
		{500, webhook.DeliveryDelivered, 2},
		{503, webhook.DeliveryDelivered, 2},
		{301, webhook.DeliveryDead, 1},
		{307, webhook.DeliveryDead, 1},
		{400, webhook.DeliveryDead, 1},
		{401, webhook.DeliveryDead, 1},
		{403, webhook.DeliveryDead, 1},
		{415, webhook.DeliveryDead, 1},
	} {
		t.Run(strconv.Itoa(c.status), func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			sink := receive(t, func(n int, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				if n == 1 {
					w.WriteHeader(c.status)
				}
			})
			r.send()
			s := r.active(sink.URL)
			r.match(fact(t, "e-1", "k"))
			d := r.untilEnded(s.ID, 1, c.want)[0]
			got := sink.got()
			if len(got) != c.requests || d.Attempts != c.requests {
				t.Fatalf("%d requests, %d attempts; want %d", len(got), d.Attempts, c.requests)
			}
			for _, request := range got {
				if request.header.Get("Webhook-Id") != d.ID {
					t.Errorf("webhook-id %s, want %s", request.header.Get("Webhook-Id"), d.ID)
				}
			}
			full, err := r.store.Delivery(t.Context(), everyone, d.ID)
			if err != nil || len(full.Log) != c.requests || full.Log[0].Status != c.status || full.Log[0].Number != 1 {
				t.Errorf("log %+v, %v", full.Log, err)
			}
		})
	}
}

func TestASinkThatIsGoneDisablesItsSubscription(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, status(http.StatusGone))
	r.send()
	s := r.active(sink.URL)
	r.match(fact(t, "e-1", "k"))
	disabled := r.untilState(s.ID, webhook.Disabled)
	if !strings.Contains(disabled.StateReason, "410") {
		t.Errorf("reason %q", disabled.StateReason)
	}
	r.untilEnded(s.ID, 1, webhook.DeliveryDead)
	r.match(fact(t, "e-2", "k"))
	if all := r.deliveries(s.ID, ""); len(all) != 1 {
		t.Errorf("%d deliveries, want that from before only", len(all))
	}
	if _, err := r.store.Redeliver(t.Context(), everyone, s.ID, "", webhook.DeliveryFilter{}); !errors.Is(err, webhook.ErrState) {
		t.Errorf("redeliver: %v", err)
	}
	if n := len(sink.got()); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestRetryAfterIsObeyedForTheWholeSinkAndCapped(t *testing.T) {
	t.Parallel()
	r := setup(t, func(c *webhook.Config) { c.RetryAfterMax = 300 * time.Millisecond })
	sink := receive(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	r.send()
	s := r.active(sink.URL, func(s *webhook.Subscription) { s.Config = map[string]string{"concurrency": "1"} })
	r.match(fact(t, "e-1", "a"), fact(t, "e-2", "b"))
	r.untilEnded(s.ID, 2, webhook.DeliveryDelivered)
	got := sink.got()
	if len(got) != 3 {
		t.Fatalf("%d requests, want 3", len(got))
	}
	if rest := got[1].at.Sub(got[0].at); rest < 250*time.Millisecond {
		t.Errorf("the next request came after %s", rest)
	}
}

func TestADeliveryThatNobodyTakesBecomesADeadLetterAndCanBeSentAgain(t *testing.T) {
	t.Parallel()
	r := setup(t)
	var well atomic.Bool
	sink := receive(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		if !well.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	r.send()
	s := r.active(sink.URL)
	r.match(fact(t, "e-1", "a"), fact(t, "e-2", "b"))
	for began, tried := time.Now(), 0; tried < 2; time.Sleep(5 * time.Millisecond) {
		if err := r.pool.QueryRow(t.Context(), "select count(*) from webhook_delivery where tried >= 2").Scan(&tried); err != nil || time.Since(began) > patience {
			t.Fatalf("%d were tried again, %v", tried, err)
		}
	}
	r.exec("update webhook_delivery set give_up_at = clock_timestamp() - interval '1 minute'") // their time is over
	r.run(r.store.RunUpkeep)                                                                   // for one that is not tried again since the sink rests
	dead := r.untilEnded(s.ID, 2, webhook.DeliveryDead)
	if dead[0].Status != http.StatusInternalServerError || dead[0].Error == "" || dead[0].Attempts < 2 {
		t.Errorf("dead letter %+v", dead[0])
	}
	well.Store(true)
	if n, err := r.store.Redeliver(t.Context(), everyone, s.ID, dead[0].ID, webhook.DeliveryFilter{}); n != 1 || err != nil {
		t.Fatalf("redeliver one: %d, %v", n, err)
	}
	again := r.untilEnded(s.ID, 1, webhook.DeliveryDelivered)[0]
	if again.ID != dead[0].ID || again.Attempts <= dead[0].Attempts {
		t.Errorf("redelivered %+v", again)
	}
	if n, err := r.store.Redeliver(t.Context(), everyone, s.ID, "", webhook.DeliveryFilter{State: webhook.DeliveryDead}); n != 1 || err != nil {
		t.Fatalf("redeliver by filter: %d, %v", n, err)
	}
	r.untilEnded(s.ID, 2, webhook.DeliveryDelivered)
}

func TestADeadSinkCostsLittleAndHoldsUpNobody(t *testing.T) {
	t.Parallel()
	r := setup(t, func(c *webhook.Config) {
		c.RestBase, c.RestMax = time.Hour, time.Hour
		c.InFlightMax = 32
	})
	release := make(chan struct{})
	hung := receive(t, func(int, http.ResponseWriter, *http.Request) { <-release })
	dead := receive(t, status(http.StatusBadGateway))
	well := receive(t, nil)
	r.send()
	t.Cleanup(func() { close(release) }) // before the sender ends, which waits for the answers
	toHung := r.active(hung.URL)
	toDead := r.active(dead.URL)
	toWell := r.active(well.URL, func(s *webhook.Subscription) { s.Tenant = "other" })
	for i := range 40 {
		e := fact(t, fmt.Sprint("e-", i), strconv.Itoa(i))
		mine := e
		mine.SetExtension("tenantid", "other")
		r.match(e, mine)
	}
	r.untilEnded(toWell.ID, 40, webhook.DeliveryDelivered)
	until(t, "the dead sink rests", func() bool { return r.get(toDead.ID).RestUntil != nil })
	if n := len(dead.got()); n < 5 || n > 8 {
		t.Errorf("the dead sink was tried %d times, want 5 and what was in flight", n)
	}
	if n := len(hung.got()); n > 4 {
		t.Errorf("the hung sink has %d requests at once", n)
	}
	_ = toHung
}

func TestASinkThatIsWellAgainGetsEverything(t *testing.T) {
	t.Parallel()
	r := setup(t)
	var well atomic.Bool
	sink := receive(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		if !well.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	r.send()
	s := r.active(sink.URL)
	for i := range 20 {
		r.match(fact(t, fmt.Sprint("e-", i), strconv.Itoa(i)))
	}
	sink.untilGot(t, 8)
	well.Store(true)
	r.untilEnded(s.ID, 20, webhook.DeliveryDelivered)
	if s = r.get(s.ID); s.RestUntil != nil || s.State != webhook.Active {
		t.Errorf("subscription %+v", s)
	}
}

func TestKeysKeepTheirOrderWhereThatIsWanted(t *testing.T) {
	t.Parallel()
	r := setup(t)
	var fails atomic.Int64
	sink := receive(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Ce-Id") == "a-0" && fails.Add(1) <= 3 {
			w.WriteHeader(http.StatusNotFound) // tried again, by a sink that is well
		}
	})
	r.send()
	s := r.active(sink.URL, func(s *webhook.Subscription) { s.Config = map[string]string{"order": "key"} })
	for i := range 5 {
		r.match(fact(t, fmt.Sprint("a-", i), "a"), fact(t, fmt.Sprint("b-", i), "b"))
	}
	r.untilEnded(s.ID, 10, webhook.DeliveryDelivered)
	var a, b []string
	for _, request := range sink.got() {
		id := request.header.Get("Ce-Id")
		if id[0] == 'a' {
			a = append(a, id)
		} else {
			b = append(b, id)
		}
	}
	if want := []string{"a-0", "a-0", "a-0", "a-0", "a-1", "a-2", "a-3", "a-4"}; !slices.Equal(a, want) {
		t.Errorf("key a: %v, want %v", a, want)
	}
	if want := []string{"b-0", "b-1", "b-2", "b-3", "b-4"}; !slices.Equal(b, want) {
		t.Errorf("key b: %v, want %v", b, want)
	}
}

func TestPauseKeepsEventsAndResumeSendsThem(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, nil)
	r.send()
	s := r.active(sink.URL)
	if _, err := r.store.Pause(t.Context(), everyone, s.ID, "the receiver is being rebuilt"); err != nil {
		t.Fatal(err)
	}
	r.match(fact(t, "e-1", "k"))
	marker := r.active(sink.URL+"/marker", func(s *webhook.Subscription) { s.Tenant = "m" })
	mine := fact(t, "m", "k")
	mine.SetExtension("tenantid", "m")
	r.match(mine)
	r.untilEnded(marker.ID, 1, webhook.DeliveryDelivered) // so the sender has looked
	if all := r.deliveries(s.ID, webhook.DeliveryPending); len(all) != 1 {
		t.Fatalf("%d deliveries wait, want 1", len(all))
	}
	if _, err := r.store.Resume(t.Context(), everyone, s.ID); err != nil {
		t.Fatal(err)
	}
	r.untilEnded(s.ID, 1, webhook.DeliveryDelivered)
}

func TestTheRateThatASinkAllowsIsKept(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, nil)
	sink.options = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WebHook-Allowed-Origin", r.Header.Get("WebHook-Request-Origin"))
		w.Header().Set("WebHook-Allowed-Rate", "600") // ten a second
	}
	r.send()
	s := r.subscribe(sink.URL)
	if s = r.untilState(s.ID, webhook.Active); s.AllowedRate != 600 {
		t.Fatalf("rate %d", s.AllowedRate)
	}
	for i := range 5 {
		r.match(fact(t, fmt.Sprint("e-", i), strconv.Itoa(i)))
	}
	r.untilEnded(s.ID, 5, webhook.DeliveryDelivered)
	got := sink.got()
	if took := got[4].at.Sub(got[0].at); took < 350*time.Millisecond {
		t.Errorf("five requests within %s", took)
	}
}

func TestTwoSecretsSignWhileOneReplacesTheOther(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, nil)
	r.send()
	s := r.active(sink.URL)
	first := s.Signing[0].Secret
	rotated, err := r.store.Rotate(t.Context(), everyone, s.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	second := rotated.Signing[0].Secret
	if second == "" || second == first || len(rotated.Signing) != 2 || rotated.Signing[1].Secret != "" {
		t.Fatalf("secrets %+v", rotated.Signing)
	}
	r.match(fact(t, "e-1", "k"))
	got := sink.untilGot(t, 1)[0]
	for _, key := range []string{first, second} {
		if err := verify(t, key, got); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.store.Rotate(t.Context(), everyone, s.ID, -1); err != nil {
		t.Fatal(err)
	}
	r.match(fact(t, "e-2", "k"))
	got = sink.untilGot(t, 2)[1]
	if verify(t, first, got) == nil || verify(t, second, got) == nil {
		t.Error("a secret that was ended signs")
	}
	tampered := got
	tampered.body = []byte(`{"id":"e-3"}`)
	if verify(t, r.secretOf(s.ID), tampered) == nil {
		t.Error("another body passes")
	}
}

// secretOf makes a fresh secret and returns it.
func (r *rig) secretOf(id string) string {
	r.t.Helper()
	s, err := r.store.Rotate(r.t.Context(), everyone, id, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.Signing[0].Secret
}

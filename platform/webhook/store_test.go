package webhook_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/egress"
	"github.com/countermand/countermand/platform/webhook"
)

func TestASubscriptionSeesItsTenantsEventsOnly(t *testing.T) {
	t.Parallel()
	r := setup(t)
	tenant := func(name string) func(*webhook.Subscription) {
		return func(s *webhook.Subscription) { s.Tenant = name }
	}
	none, a, b := r.active("http://127.0.0.1/", tenant("")), r.active("http://127.0.0.1/", tenant("a")), r.active("http://127.0.0.1/", tenant("b"))
	ours := fact(t, "e", "k")
	ours.SetExtension("tenantid", "a")
	ours.Data = []byte(`{"id":"of a"}`)
	theirs := fact(t, "e", "k") // the same id and source, as a tenant can choose them
	theirs.SetExtension("tenantid", "b")
	r.match(theirs, ours)
	for _, c := range []struct {
		id   string
		want int
	}{{none.ID, 0}, {a.ID, 1}, {b.ID, 1}} {
		if all := r.deliveries(c.id, ""); len(all) != c.want {
			t.Errorf("%d deliveries, want %d", len(all), c.want)
		}
	}
	var data string
	err := r.pool.QueryRow(t.Context(), `select convert_from(e.data, 'utf8') from webhook_delivery as d join webhook_event as e on e.id = d.event
		where d.subscription = $1`, a.ID).Scan(&data)
	if err != nil || data != `{"id":"of a"}` {
		t.Errorf("tenant a gets %s, %v", data, err)
	}
	id := r.deliveries(a.ID, "")[0].ID
	stranger := webhook.Scope{Tenant: "b"}
	verbs := map[string]func() error{
		"get":     func() error { _, err := r.store.Get(t.Context(), stranger, a.ID); return err },
		"replace": func() error { _, err := r.store.Replace(t.Context(), stranger, a, 0); return err },
		"delete":  func() error { return r.store.Delete(t.Context(), stranger, a.ID, 0) },
		"pause":   func() error { _, err := r.store.Pause(t.Context(), stranger, a.ID, ""); return err },
		"resume":  func() error { _, err := r.store.Resume(t.Context(), stranger, a.ID); return err },
		"rotate":  func() error { _, err := r.store.Rotate(t.Context(), stranger, a.ID, 0); return err },
		"test":    func() error { _, err := r.store.Test(t.Context(), stranger, a.ID); return err },
		"deliveries": func() error {
			_, err := r.store.Deliveries(t.Context(), stranger, a.ID, webhook.DeliveryFilter{}, "", 1)
			return err
		},
		"delivery": func() error { _, err := r.store.Delivery(t.Context(), stranger, id); return err },
		"redeliver": func() error {
			_, err := r.store.Redeliver(t.Context(), stranger, a.ID, id, webhook.DeliveryFilter{})
			return err
		},
		"redeliver by another subscription": func() error {
			_, err := r.store.Redeliver(t.Context(), stranger, b.ID, id, webhook.DeliveryFilter{})
			return err
		},
	}
	for name, verb := range verbs {
		if err := verb(); !errors.Is(err, webhook.ErrNotFound) {
			t.Errorf("%s of another tenant's: %v", name, err)
		}
	}
	page, err := r.store.List(t.Context(), stranger, "", "", 10)
	if err != nil || len(page.Subscriptions) != 1 || page.Subscriptions[0].ID != b.ID {
		t.Errorf("list of tenant b: %+v, %v", page, err)
	}
}

func TestAnEventThatComesAgainIsDeliveredOnce(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.active("http://127.0.0.1/")
	e := fact(t, "e-1", "k")
	r.match(e, fact(t, "e-2", "k"), e)
	r.exec("update consumer_position set handled = 0")
	r.match(e)
	if all := r.deliveries(s.ID, ""); len(all) != 2 {
		t.Errorf("%d deliveries, want 2", len(all))
	}
}

func TestSubscriptionsCountFromTheMomentTheyAreMade(t *testing.T) {
	t.Parallel()
	r := setup(t)
	matching := func() int { // by one matcher, which knows the subscriptions from before
		var n int
		if err := r.pool.QueryRow(t.Context(), "select count(*) from webhook_delivery").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	r.match(fact(t, "e-0", "k"))
	s := r.active("http://127.0.0.1/", func(s *webhook.Subscription) {
		s.Filters = json.RawMessage(`[{"prefix":{"id":"e-"}},{"sql":"partitionkey = 'k'"}]`)
		s.Source = "/shop"
	})
	r.match(fact(t, "e-1", "k"), fact(t, "e-2", "other"), fact(t, "x-1", "k"))
	if n := matching(); n != 1 {
		t.Errorf("%d deliveries, want that of e-1", n)
	}
	if err := r.store.Delete(t.Context(), everyone, s.ID, s.Revision); err != nil {
		t.Fatal(err)
	}
	r.match(fact(t, "e-3", "k"))
	if n := matching(); n != 1 {
		t.Errorf("%d deliveries after the subscription was deleted", n)
	}
}

func TestRevisionsGuardChanges(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.active("http://127.0.0.1/")
	changed := s
	changed.Types = []string{placed.Type()}
	updated, err := r.store.Replace(t.Context(), everyone, changed, s.Revision)
	if err != nil || updated.Revision <= s.Revision || updated.State != webhook.Active {
		t.Fatalf("replace: %+v, %v", updated, err)
	}
	if _, err := r.store.Replace(t.Context(), everyone, changed, s.Revision); !errors.Is(err, webhook.ErrRevision) {
		t.Errorf("replace an old revision: %v", err)
	}
	if err := r.store.Delete(t.Context(), everyone, s.ID, s.Revision); !errors.Is(err, webhook.ErrRevision) {
		t.Errorf("delete an old revision: %v", err)
	}
	if err := r.store.Delete(t.Context(), everyone, s.ID, updated.Revision); err != nil {
		t.Error(err)
	}
	if _, err := r.store.Get(t.Context(), everyone, s.ID); !errors.Is(err, webhook.ErrNotFound) {
		t.Errorf("get a deleted one: %v", err)
	}
}

func TestSubscriptionsAreBounded(t *testing.T) {
	t.Parallel()
	r := setup(t, func(c *webhook.Config) { c.TenantMax, c.ClientMax = 4, 3 })
	create := func(tenant, client string) error {
		_, err := r.store.Create(t.Context(), tenant, client, webhook.Subscription{Sink: "http://127.0.0.1/", Protocol: "HTTP"})
		return err
	}
	var (
		mu      sync.Mutex
		made    int
		waiting sync.WaitGroup
	)
	for range 10 { // at once
		waiting.Go(func() {
			err := create("a", "one")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			} else if !errors.Is(err, webhook.ErrTooMany) {
				t.Error(err)
			}
		})
	}
	waiting.Wait()
	if made != 3 {
		t.Errorf("a client made %d, want 3", made)
	}
	if err := create("a", "two"); err != nil {
		t.Error(err)
	}
	if err := create("a", "two"); !errors.Is(err, webhook.ErrTooMany) {
		t.Errorf("the fifth of a tenant: %v", err)
	}
	if err := create("b", "one"); err != nil {
		t.Errorf("another tenant: %v", err)
	}
}

func TestListsGoOnByCursor(t *testing.T) {
	t.Parallel()
	r := setup(t)
	var want []string
	for i := range 5 {
		want = append(want, r.active(fmt.Sprint("http://127.0.0.1/", i)).ID)
	}
	var got []string
	for cursor := ""; ; {
		page, err := r.store.List(t.Context(), everyone, webhook.Active, cursor, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page.Subscriptions {
			got = append(got, s.ID)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	if _, err := r.store.List(t.Context(), everyone, "", "nonsense", 2); !errors.Is(err, webhook.ErrCursor) {
		t.Errorf("a cursor of nobody's: %v", err)
	}
	for i := range 5 {
		r.match(fact(t, fmt.Sprint("e-", i), "k"))
	}
	var events []string
	for cursor := ""; ; {
		page, err := r.store.Deliveries(t.Context(), everyone, want[0], webhook.DeliveryFilter{}, cursor, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page.Deliveries {
			events = append(events, d.EventID)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if fmt.Sprint(events) != "[e-4 e-3 e-2 e-1 e-0]" {
		t.Errorf("deliveries %v", events)
	}
}

func TestEverythingThatIsWrongIsTold(t *testing.T) {
	t.Parallel()
	r := setup(t, func(c *webhook.Config) { c.Guard = new(egress.Guard) })
	_, err := r.store.Create(t.Context(), "", "", webhook.Subscription{
		Protocol: "KAFKA", Sink: "http://169.254.169.254/latest", Types: []string{"test.order.lost.v1"},
		Filters: json.RawMessage(`[{"exact":{"ID":"x"}}]`), Config: map[string]string{"order": "any", "concurrency": "99", "color": "red"},
		ProtocolSettings: &webhook.Settings{Method: "PUT", ContentMode: "xml", Headers: map[string]string{"Host": "x", "A B": "c", "X": "a\nb", "ce-id": "1"}},
		SinkCredential:   &webhook.Credential{Type: "REFRESHTOKEN", AccessToken: "x"},
	})
	var invalid webhook.InvalidError
	if !errors.As(err, &invalid) {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for _, v := range invalid {
		got[v.Pointer] = true
	}
	for _, pointer := range []string{
		"/protocol", "/sink", "/types/0", "/filters/0/exact/ID", "/config/order", "/config/concurrency", "/config/color",
		"/protocolsettings/method", "/protocolsettings/contentmode", "/protocolsettings/headers/Host", "/protocolsettings/headers/A B",
		"/protocolsettings/headers/X", "/protocolsettings/headers/ce-id", "/sinkcredential/credentialtype",
	} {
		if !got[pointer] {
			t.Errorf("%s is not told: %v", pointer, err)
		}
	}
	for _, sink := range []string{"", "https://", "nonsense", "https://10.0.0.1/", "https://[::1]/", "https://example.com:22/", "https://a:b@example.com/"} {
		_, err := r.store.Create(t.Context(), "", "", webhook.Subscription{Protocol: "HTTP", Sink: sink})
		if !errors.As(err, &invalid) {
			t.Errorf("sink %q: %v", sink, err)
		}
	}
}

func TestSecretsAreStoredSealedAndNeverShownOrLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var mu sync.Mutex
	r := setup(t, func(c *webhook.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&locked{&mu, &log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.RetryFor = 30 * time.Millisecond
	})
	const canary = "cAnArY-0815"
	sink := receive(t, status(500))
	stop := r.send()
	s := r.active(sink.URL, func(s *webhook.Subscription) {
		s.SinkCredential = &webhook.Credential{Type: "PLAIN", Identifier: "shop", Secret: canary}
	})
	r.match(fact(t, "e-1", "k"))
	r.untilEnded(s.ID, 1, webhook.DeliveryDead)
	rotated, err := r.store.Rotate(t.Context(), everyone, s.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	var dump string
	err = r.pool.QueryRow(t.Context(), `select string_agg(s::text, '') || (select string_agg(d::text, '') from webhook_delivery as d)
		|| (select string_agg(a::text, '') from webhook_attempt as a) || string_agg(encode(secrets, 'escape') || encode(credential, 'escape'), '')
		from webhook_subscription as s`).Scan(&dump)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for where, text := range map[string]string{"the database": dump, "the log": log.String(), "a subscription": asJSON(t, r.get(s.ID))} {
		for _, word := range []string{canary, s.Signing[0].Secret[6:], rotated.Signing[0].Secret[6:]} {
			if strings.Contains(text, word) {
				t.Errorf("%s holds a secret", where)
			}
		}
	}
	if !strings.Contains(log.String(), "dead letter") {
		t.Error("the log tells of no dead letter")
	}
}

type locked struct {
	mu *sync.Mutex
	*bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func TestKeysOfTheVaultCanBeReplaced(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.active("http://127.0.0.1/")
	fresh := []byte("another key of at least 16 bytes")
	both, err := webhook.NewVault(fresh, vaultKey)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := webhook.NewVault(fresh)
	if err != nil {
		t.Fatal(err)
	}
	get := func(v *webhook.Vault) error {
		r.config.Vault = v
		got, err := r.newStore().Get(t.Context(), everyone, s.ID)
		if err == nil && got.StateReason != "" {
			err = errors.New(got.StateReason)
		}
		return err
	}
	if err := get(alone); err == nil || !strings.Contains(err.Error(), "add the earlier key") {
		t.Errorf("without the earlier key: %v", err)
	}
	if err := get(both); err != nil {
		t.Error(err)
	}
	if _, err := r.newStore().Pause(t.Context(), everyone, s.ID, ""); err != nil { // by the vault of both
		t.Fatal(err)
	}
	if err := get(alone); err != nil {
		t.Errorf("after it was written again: %v", err)
	}
	if _, err := webhook.NewVault([]byte("short")); err == nil {
		t.Error("a short key is taken")
	}
}

func TestASubscriptionWhoseKeyIsLostCanBeListedAndDeleted(t *testing.T) {
	t.Parallel()
	r := setup(t)
	lost := r.active("http://127.0.0.1/")
	before := r.config.Vault
	var err error
	if r.config.Vault, err = webhook.NewVault([]byte("another key of at least 16 bytes")); err != nil {
		t.Fatal(err)
	}
	r.store = r.newStore()
	fine := r.active("http://127.0.0.1/")
	page, err := r.store.List(t.Context(), everyone, "", "", 10)
	if err != nil || len(page.Subscriptions) != 2 {
		t.Fatalf("list: %+v, %v", page, err)
	}
	if reason := page.Subscriptions[0].StateReason; page.Subscriptions[0].ID != lost.ID || !strings.Contains(reason, "add the earlier key") {
		t.Errorf("the list does not say how to mend %+v", page.Subscriptions[0])
	}
	if page.Subscriptions[1].StateReason != "" {
		t.Errorf("the other one is %+v", page.Subscriptions[1])
	}
	if _, err := r.store.Pause(t.Context(), everyone, lost.ID, "x"); !errors.Is(err, webhook.ErrState) || !strings.Contains(err.Error(), "add the earlier key") {
		t.Errorf("pause: %v", err)
	}
	fresh := r.config.Vault
	r.config.Vault = before
	if got, err := r.newStore().Get(t.Context(), everyone, lost.ID); err != nil || len(got.Signing) != 1 || got.StateReason != "" {
		t.Errorf("with its key it is %+v, %v", got, err)
	}
	r.config.Vault = fresh
	if err := r.store.Delete(t.Context(), everyone, lost.ID, lost.Revision+7); !errors.Is(err, webhook.ErrRevision) {
		t.Errorf("delete of another revision: %v", err)
	}
	if err := r.store.Delete(t.Context(), everyone, lost.ID, webhook.AnyRevision); err != nil {
		t.Error(err)
	}
	if _, err := r.store.Get(t.Context(), everyone, lost.ID); !errors.Is(err, webhook.ErrNotFound) {
		t.Errorf("after it was deleted: %v", err)
	}
	if _, err := r.store.Pause(t.Context(), everyone, fine.ID, "x"); err != nil {
		t.Error(err)
	}
}

func TestOldDeliveriesAndDeletedSubscriptionsAreCleanedUp(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, nil)
	r.send()
	s := r.active(sink.URL)
	r.match(fact(t, "old", "k"), fact(t, "new", "k"), fact(t, "dead", "k"))
	r.untilEnded(s.ID, 3, webhook.DeliveryDelivered)
	gone := r.active(sink.URL)
	r.match(fact(t, "more", "k"))
	r.untilEnded(gone.ID, 1, webhook.DeliveryDelivered)
	r.untilEnded(s.ID, 4, webhook.DeliveryDelivered)
	if err := r.store.Delete(t.Context(), everyone, gone.ID, 0); err != nil {
		t.Fatal(err)
	}
	r.exec(`update webhook_delivery set ended_at = ended_at - interval '4 days' where event in (select id from webhook_event where data like '%old%' or data like '%dead%')`)
	r.exec(`update webhook_delivery set state = 'dead' where event in (select id from webhook_event where data like '%dead%')`)
	r.exec(`update webhook_event set stored_at = stored_at - interval '4 days'`)
	r.run(r.store.RunUpkeep)
	count := func(table string) (n int) {
		if err := r.pool.QueryRow(t.Context(), "select count(*) from "+table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	until(t, "the subscription that was deleted is gone", func() bool { return count("webhook_subscription") == 1 })
	until(t, "the old event is gone", func() bool { return count("webhook_event") == 3 })
	if n := count("webhook_delivery"); n != 3 { // new, dead and more
		t.Errorf("%d deliveries are kept, want 3", n)
	}
	if n := count("webhook_attempt"); n != 3 {
		t.Errorf("%d attempts are kept, want 3", n)
	}
}

func TestATestEventIsDeliveredLikeAnyOther(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, nil)
	s := r.subscribe(sink.URL, func(s *webhook.Subscription) { s.Types = []string{placed.Type()} })
	if _, err := r.store.Test(t.Context(), everyone, s.ID); !errors.Is(err, webhook.ErrState) {
		t.Errorf("before the sink agreed: %v", err)
	}
	r.send()
	r.untilState(s.ID, webhook.Active)
	d, err := r.store.Test(t.Context(), everyone, s.ID)
	if err != nil || d.EventType != webhook.TestType {
		t.Fatalf("%+v, %v", d, err)
	}
	got := sink.untilGot(t, 1)[0]
	if got.header.Get("Webhook-Id") != d.ID || got.header.Get("Ce-Type") != webhook.TestType {
		t.Errorf("header %v", got.header)
	}
}

func TestASinkThatResolvesToAnInnerAddressIsNotReached(t *testing.T) {
	t.Parallel()
	r := setup(t, func(c *webhook.Config) {
		c.Guard = &egress.Guard{PlainHTTP: true, AnyPort: true} // localhost passes as a name
		c.RetryFor = 30 * time.Millisecond
	})
	sink := receive(t, nil)
	r.send()
	s := r.active(strings.Replace(sink.URL, "127.0.0.1", "localhost", 1))
	r.match(fact(t, "e-1", "k"))
	d := r.untilEnded(s.ID, 1, webhook.DeliveryDead)[0]
	if !strings.Contains(d.Error, "not allowed") || strings.Contains(d.Error, "127.0.0.1") {
		t.Errorf("error %q", d.Error)
	}
	if n := len(sink.got()); n != 0 {
		t.Errorf("%d requests reached it", n)
	}
}

// What Postgres cannot make a text of must not keep a subscription from being changed.
func TestASubscriptionWithU0000CanBeChanged(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.subscribe("http://127.0.0.1:9/", func(s *webhook.Subscription) { s.Source = "a\x00b" })
	s.Config = map[string]string{"order": "key"}
	if _, err := r.store.Replace(t.Context(), webhook.Scope{Everyone: true}, s, webhook.AnyRevision); err != nil {
		t.Error(err)
	}
}

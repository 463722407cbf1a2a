package handling

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/egress"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/webhook"
)

var painted = events.NewFact[part]("test.part.painted.v1")

// sink notes what it is sent, and fails the first time.
type sink struct {
	mu     sync.Mutex
	bodies []string
	ids    []string
	failed bool
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodOptions {
		w.Header().Set("WebHook-Allowed-Origin", "*")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.failed {
		s.failed = true
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	s.bodies = append(s.bodies, r.Header.Get("Ce-Id"))
	s.ids = append(s.ids, r.Header.Get("Webhook-Id"))
}

func (s *sink) got() (events, ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bodies), slices.Clone(s.ids)
}

// Events on Kafka are matched, signed and sent in the order of their key, from where the
// matcher stood before it was stopped.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	b, _ := connect(t)
	if err := b.Ensure(t.Context(), painted.Topic()); err != nil {
		t.Fatal(err)
	}
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: embeddedtest.Postgres(t), ApplicationName: "webhooks", MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	err = postgres.Migrate(t.Context(), pool,
		postgres.MigrationSet{Owner: "consumer", FS: consumer.Migrations()}, postgres.MigrationSet{Owner: "webhook", FS: webhook.Migrations()})
	if err != nil {
		t.Fatal(err)
	}
	vault, err := webhook.NewVault([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	store, err := webhook.New(pool, webhook.Config{
		Vault: vault, Origin: "hooks.example.com", Logger: logger,
		Guard:  &egress.Guard{PlainHTTP: true, AnyPort: true, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
		Offers: []webhook.Offer{{Type: painted.Type(), Topic: painted.Topic()}},
		Poll:   5 * time.Millisecond, RetryBase: 10 * time.Millisecond, RetryMax: 40 * time.Millisecond,
		RestBase: 20 * time.Millisecond, RestMax: 40 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	// run has a part work until the test or stop ends it.
	run := func(part func(context.Context) error) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() {
			if err := part(ctx); err != nil {
				t.Error(err)
			}
		})
		stop = func() {
			cancel()
			running.Wait()
		}
		t.Cleanup(stop)
		return stop
	}
	match := func() (stop func()) {
		feed, err := consumer.NewFeed(pool, b, webhook.NewMatcher(store), consumer.FeedConfig{
			Name: webhook.ConsumerName, Topics: store.Topics(), Balance: 20 * time.Millisecond, Logger: logger,
		})
		if err != nil {
			t.Fatal(err)
		}
		return run(feed.Run)
	}
	notes := &sink{}
	server := httptest.NewServer(notes)
	t.Cleanup(server.Close)
	subscription, err := store.Create(t.Context(), "", "", webhook.Subscription{
		Sink: server.URL, Protocol: "HTTP", Config: map[string]string{"order": "key"},
	})
	if err != nil {
		t.Fatal(err)
	}
	run(webhook.NewSender(store).Run)
	await(t, "the sink agrees", func() bool {
		s, err := store.Get(t.Context(), webhook.Scope{}, subscription.ID)
		return err == nil && s.State == webhook.Active
	})
	publish := func(from, to int) {
		t.Helper()
		var all []broker.Message
		for n := from; n < to; n++ {
			e, err := painted.New(fmt.Sprint("e-", n), "/shop", part{Name: fmt.Sprint(n)}, time.Now().UTC())
			if err != nil {
				t.Fatal(err)
			}
			e.PartitionKey = "k"
			all = append(all, broker.Message{Topic: painted.Topic(), PublishID: e.ID, Event: e})
		}
		for _, receipt := range b.PublishBatch(t.Context(), all) {
			if receipt.Err != nil {
				t.Fatal(receipt.Err)
			}
		}
	}
	wantSent := func(n int) {
		t.Helper()
		await(t, fmt.Sprint(n, " are sent"), func() bool { all, _ := notes.got(); return len(all) >= n })
		var want []string
		for i := range n {
			want = append(want, fmt.Sprint("e-", i))
		}
		all, ids := notes.got()
		slices.Sort(ids)
		if !slices.Equal(all, want) || len(slices.Compact(ids)) != n {
			t.Errorf("sent %v under %v, want %v", all, ids, want)
		}
	}
	stop := match()
	await(t, "the matcher has its partitions", func() bool {
		var partitions int
		err := pool.QueryRow(t.Context(), "select count(*) from consumer_position where consumer = $1", webhook.ConsumerName).Scan(&partitions)
		return err == nil && partitions > 0
	})
	publish(0, 5)
	wantSent(5)
	stop()
	publish(5, 8)
	match()
	wantSent(8)
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%s: not within half a minute", what)
		}
	}
}

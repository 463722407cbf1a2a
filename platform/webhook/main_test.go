package webhook_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/egress"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
	"github.com/countermand/countermand/platform/webhook"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

type order struct {
	ID string `json:"id"`
}

var (
	placed  = events.NewFact[order]("test.order.placed.v1")
	shipped = events.NewFact[order]("test.order.shipped.v1")
	secret  = events.NewFact[order]("test.order.audited.v1") // same topic, not offered
)

var everyone = webhook.Scope{Everyone: true}

func TestMain(m *testing.M) {
	if url, ok := childDatabase(); ok {
		runChild(url)
		return
	}
	embeddedtest.Main(m)
}

// leaks checks for goroutines left over whenever no test holds a rig. It is here
// because embeddedtest.Main, which goleak would have to wrap, does not return.
var leaks struct {
	sync.Mutex
	rigs   int
	before goleak.Option
}

func watchLeaks(t testing.TB) {
	t.Helper()
	leaks.Lock()
	defer leaks.Unlock()
	if leaks.rigs++; leaks.before == nil {
		embeddedtest.Postgres(t) // the server's own goroutines stay
		leaks.before = goleak.IgnoreCurrent()
	}
	t.Cleanup(func() {
		leaks.Lock()
		defer leaks.Unlock()
		if leaks.rigs--; leaks.rigs == 0 {
			if err := goleak.Find(leaks.before, goleak.IgnoreAnyFunction("testing.tRunner"), goleak.IgnoreAnyFunction("testing.(*B).run1")); err != nil {
				t.Error(err)
			}
		}
	})
}

var vaultKey = func() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	return key
}()

// config is that of the tests: sinks are on loopback, and everything is quick.
func config(t testing.TB) webhook.Config {
	t.Helper()
	vault, err := webhook.NewVault(vaultKey)
	if err != nil {
		t.Fatal(err)
	}
	return webhook.Config{
		Vault: vault,
		Guard: &egress.Guard{PlainHTTP: true, AnyPort: true, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
		Offers: []webhook.Offer{
			{Type: placed.Type(), Topic: placed.Topic()}, {Type: shipped.Type(), Topic: shipped.Topic()},
		},
		Origin: "hooks.example.com",
		Poll:   5 * time.Millisecond, RetryBase: 10 * time.Millisecond, RetryMax: 40 * time.Millisecond,
		RestBase: 20 * time.Millisecond, RestMax: 40 * time.Millisecond, RetryAfterMax: 50 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// rig is a database with the tables of webhooks, and a store on it.
type rig struct {
	t      testing.TB
	url    string
	pool   *pgxpool.Pool
	store  *webhook.Store
	config webhook.Config
}

func setup(t testing.TB, change ...func(*webhook.Config)) *rig {
	t.Helper()
	watchLeaks(t)
	url := postgrestest.URL(t,
		postgres.MigrationSet{Owner: "consumer", FS: consumer.Migrations()}, postgres.MigrationSet{Owner: "webhook", FS: webhook.Migrations()})
	r := &rig{t: t, url: url, config: config(t)}
	for _, f := range change {
		f(&r.config)
	}
	r.pool = open(t, r.url)
	r.store = r.newStore()
	return r
}

func open(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: url, ApplicationName: "test", MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func (r *rig) newStore() *webhook.Store {
	r.t.Helper()
	store, err := webhook.New(r.pool, r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	return store
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.pool.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatal(err)
	}
}

// run runs a function until the test or stop ends it.
func (r *rig) run(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := run(ctx); err != nil {
			r.t.Error(err)
		}
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	r.t.Cleanup(stop)
	return stop
}

// send runs a sender.
func (r *rig) send() (stop func()) {
	r.t.Helper()
	return r.run(webhook.NewSender(r.store).Run)
}

// feed publishes to a broker of its own, and runs a matcher on it.
func (r *rig) feed() broker.Broker {
	r.t.Helper()
	conn, err := embeddedtest.NATS(r.t).Connect()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(conn.Close)
	b, err := natsbroker.New(conn, natsbroker.Config{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.feedFrom(b)
	return b
}

func (r *rig) feedFrom(b broker.Broker) {
	r.t.Helper()
	feed, err := consumer.NewFeed(r.pool, b, webhook.NewMatcher(r.store), consumer.FeedConfig{
		Name: webhook.ConsumerName, Topics: r.store.Topics(), Balance: 20 * time.Millisecond, Logger: r.config.Logger,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.run(feed.Run)
}

// match has events matched as if they had been read from a topic.
func (r *rig) match(all ...events.Event) {
	r.t.Helper()
	matcher := webhook.NewMatcher(r.store)
	deliveries := make([]broker.Delivery, len(all))
	for i, e := range all {
		deliveries[i] = broker.Delivery{Topic: placed.Topic(), Partition: 0, Offset: 0, StoredAt: time.Now(), Event: e}
	}
	source := consumer.Source{Topic: placed.Topic()}
	r.exec(`insert into consumer_position (consumer, topic, partition, epoch, handled) values ($1, $2, 0, 'e', 0)
		on conflict do nothing`, webhook.ConsumerName, placed.Topic())
	batch := consumer.NewBatch(webhook.ConsumerName, map[consumer.Source]uint64{source: 0}, deliveries...)
	if err := matcher.Process(r.t.Context(), batch); err != nil {
		r.t.Fatal(err)
	}
}

func fact(t testing.TB, id, key string) events.Event {
	t.Helper()
	e, err := placed.New(id, "/shop", order{id}, time.Now().UTC())
	if err != nil {
		t.Fatal(err)
	}
	e.PartitionKey = key
	return e
}

// subscribe makes a subscription of the tenant "" to a sink.
func (r *rig) subscribe(sink string, change ...func(*webhook.Subscription)) webhook.Subscription {
	r.t.Helper()
	s := webhook.Subscription{Sink: sink, Protocol: "HTTP"}
	for _, f := range change {
		f(&s)
	}
	created, err := r.store.Create(r.t.Context(), s.Tenant, s.Client, s)
	if err != nil {
		r.t.Fatal(err)
	}
	return created
}

// active is subscribe, with the sink's consent already given.
func (r *rig) active(sink string, change ...func(*webhook.Subscription)) webhook.Subscription {
	r.t.Helper()
	s := r.subscribe(sink, change...)
	approved, err := r.store.Approve(r.t.Context(), everyone, s.ID)
	if errors.Is(err, webhook.ErrState) { // the sink was faster
		approved, err = r.store.Get(r.t.Context(), everyone, s.ID)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	approved.Signing = s.Signing // with the secret
	return approved
}

func (r *rig) get(id string) webhook.Subscription {
	r.t.Helper()
	s, err := r.store.Get(r.t.Context(), everyone, id)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// deliveries returns those of a subscription, the oldest first.
func (r *rig) deliveries(id, state string) []webhook.Delivery {
	r.t.Helper()
	page, err := r.store.Deliveries(r.t.Context(), everyone, id, webhook.DeliveryFilter{State: state}, "", webhook.ListMax)
	if err != nil {
		r.t.Fatal(err)
	}
	for i, j := 0, len(page.Deliveries)-1; i < j; i, j = i+1, j-1 {
		page.Deliveries[i], page.Deliveries[j] = page.Deliveries[j], page.Deliveries[i]
	}
	return page.Deliveries
}

// until waits for something to become true.
func until(t testing.TB, what string, true func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !true(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("this did not happen: %s", what)
		}
	}
}

func (r *rig) untilState(id string, state webhook.State) webhook.Subscription {
	r.t.Helper()
	var s webhook.Subscription
	until(r.t, "subscription becomes "+string(state), func() bool { s = r.get(id); return s.State == state })
	return s
}

func (r *rig) untilEnded(id string, n int, state string) []webhook.Delivery {
	r.t.Helper()
	var all []webhook.Delivery
	until(r.t, "deliveries are "+state, func() bool { all = r.deliveries(id, state); return len(all) >= n })
	if len(all) > n {
		r.t.Fatalf("%d deliveries are %s, want %d", len(all), state, n)
	}
	return all
}

// receiver is a sink. It keeps what it gets, and answers as it is told.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []request
	answer   func(n int, w http.ResponseWriter, r *http.Request) // n counts the POSTs from 1
	options  func(w http.ResponseWriter, r *http.Request)
}

type request struct {
	header http.Header
	body   []byte
	at     time.Time
}

func receive(t testing.TB, answer func(n int, w http.ResponseWriter, r *http.Request)) *receiver {
	t.Helper()
	k := &receiver{answer: answer}
	k.Server = httptest.NewServer(k)
	t.Cleanup(k.Close)
	return k
}

func (k *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodOptions {
		k.mu.Lock()
		options := k.options
		k.mu.Unlock()
		if options == nil {
			w.Header().Set("WebHook-Allowed-Origin", "*")
			return
		}
		options(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	k.mu.Lock()
	k.requests = append(k.requests, request{r.Header.Clone(), body, time.Now()})
	n := len(k.requests)
	k.mu.Unlock()
	if k.answer != nil {
		k.answer(n, w, r)
	}
}

func (k *receiver) got() []request {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]request(nil), k.requests...)
}

// untilGot waits for n requests.
func (k *receiver) untilGot(t testing.TB, n int) []request {
	t.Helper()
	var all []request
	until(t, "the sink gets its requests", func() bool { all = k.got(); return len(all) >= n })
	return all
}

// status answers every request with it.
func status(code int) func(int, http.ResponseWriter, *http.Request) {
	return func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func verify(t testing.TB, key string, r request) error {
	t.Helper()
	hook, err := standardwebhooks.NewWebhook(key)
	if err != nil {
		t.Fatal(err)
	}
	return hook.Verify(r.body, r.header)
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

package webhook_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go" //nolint:depguard // a process of its own connects by itself
	"golang.org/x/sync/errgroup"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/egress"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/webhook"
)

// The environment of a child: the test binary as a process that matches and sends, to be
// killed.
const (
	childEnv     = "COUNTERMAND_WEBHOOK_CHILD"
	childNATSEnv = "COUNTERMAND_WEBHOOK_CHILD_NATS" // empty: it only sends
	childKeyEnv  = "COUNTERMAND_WEBHOOK_CHILD_KEY"
)

func childDatabase() (string, bool) { return os.LookupEnv(childEnv) }

func runChild(url string) {
	if err := child(url); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child(url string) error {
	ctx := context.Background()
	pool, err := postgres.Open(ctx, postgres.Config{URL: url, ApplicationName: "child", MaxConns: 8})
	if err != nil {
		return err
	}
	key, err := hex.DecodeString(os.Getenv(childKeyEnv))
	if err != nil {
		return err
	}
	vault, err := webhook.NewVault(key)
	if err != nil {
		return err
	}
	store, err := webhook.New(pool, webhook.Config{
		Vault:  vault,
		Guard:  &egress.Guard{PlainHTTP: true, AnyPort: true, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
		Offers: []webhook.Offer{{Type: placed.Type(), Topic: placed.Topic()}},
		Poll:   5 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.Go(func() error { return webhook.NewSender(store).Run(ctx) })
	if at := os.Getenv(childNATSEnv); at != "" {
		conn, err := nats.Connect(at)
		if err != nil {
			return err
		}
		b, err := natsbroker.New(conn, natsbroker.Config{})
		if err != nil {
			return err
		}
		feed, err := consumer.NewFeed(pool, b, webhook.NewMatcher(store), consumer.FeedConfig{
			Name: webhook.ConsumerName, Topics: store.Topics(), BatchMax: 8, Balance: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return err
		}
		group.Go(func() error { return feed.Run(ctx) })
	}
	fmt.Println("running")
	return group.Wait()
}

// spawn runs a child, which kill ends with SIGKILL.
func (r *rig) spawn(natsURL string) (kill func()) {
	r.t.Helper()
	executable, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(executable)
	cmd.Env = append(os.Environ(), childEnv+"="+r.url, childNATSEnv+"="+natsURL, childKeyEnv+"="+hex.EncodeToString(vaultKey))
	cmd.Stderr = r.t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		r.t.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	r.t.Cleanup(kill)
	return kill
}

func TestWhatWasSentButNotRecordedIsSentAgainWithTheSameID(t *testing.T) {
	t.Parallel()
	r := setup(t)
	arrived, killed := make(chan struct{}), make(chan struct{})
	sink := receive(t, func(n int, _ http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			close(arrived)
			<-killed
		}
	})
	s := r.active(sink.URL)
	r.match(fact(t, "e-1", "k"))
	kill := r.spawn("")
	<-arrived // it is sent, and its sender dies before it knows
	kill()
	close(killed)
	r.send()
	d := r.untilEnded(s.ID, 1, webhook.DeliveryDelivered)[0]
	got := sink.got()
	if len(got) != 2 {
		t.Fatalf("%d requests, want 2", len(got))
	}
	for _, request := range got {
		if request.header.Get("Webhook-Id") != d.ID {
			t.Errorf("webhook-id %s, want %s", request.header.Get("Webhook-Id"), d.ID)
		}
		if err := verify(t, s.Signing[0].Secret, request); err != nil {
			t.Error(err)
		}
	}
}

func TestNothingIsLostWhenProcessesAreKilled(t *testing.T) {
	t.Parallel()
	r := setup(t)
	server := embeddedtest.NATS(t, embeddedtest.Listen())
	conn, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b, err := natsbroker.New(conn, natsbroker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Ensure(t.Context(), placed.Topic()); err != nil {
		t.Fatal(err)
	}
	sink := receive(t, nil)
	s := r.active(sink.URL)

	const rounds, each = 4, 25
	for round := range rounds {
		kill := r.spawn(server.URL())
		before := len(sink.got())
		var messages []broker.Message
		for i := range each {
			id := fmt.Sprintf("e-%d-%d", round, i)
			messages = append(messages, broker.Message{Topic: placed.Topic(), PublishID: id, Event: fact(t, id, fmt.Sprint("k", i%5))})
		}
		for _, receipt := range b.PublishBatch(t.Context(), messages) {
			if receipt.Err != nil {
				t.Fatal(receipt.Err)
			}
		}
		sink.untilGot(t, before+each/3) // in the midst of it
		kill()
	}
	r.feedFrom(b)
	r.send()
	r.untilEnded(s.ID, rounds*each, webhook.DeliveryDelivered)
	ids := make(map[string]string) // webhook-id by event
	requests := sink.got()
	for _, request := range requests {
		event, id := request.header.Get("Ce-Id"), request.header.Get("Webhook-Id")
		if known, ok := ids[event]; ok && known != id {
			t.Errorf("event %s came as %s and as %s", event, known, id)
		}
		ids[event] = id
	}
	if len(ids) != rounds*each {
		t.Errorf("%d events arrived, want %d", len(ids), rounds*each)
	}
	// Only what was in flight at a kill may come twice: four requests of one sink.
	if twice := len(requests) - len(ids); twice > rounds*4 {
		t.Errorf("%d requests came twice", twice)
	}
}

func TestSendersShareTheWorkWithoutSendingTwice(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, nil)
	var all []webhook.Subscription
	for i := range 12 {
		all = append(all, r.active(sink.URL+fmt.Sprint("/", i)))
	}
	stop := r.send()
	other := &rig{t: t, url: r.url, pool: open(t, r.url), config: r.config}
	other.store = other.newStore()
	other.send()
	const events = 30
	for i := range events {
		if i == events/2 {
			stop() // its part goes to the other one
		}
		r.match(fact(t, fmt.Sprint("e-", i), strconv.Itoa(i)))
	}
	for _, s := range all {
		r.untilEnded(s.ID, events, webhook.DeliveryDelivered)
	}
	if n := len(sink.got()); n != events*len(all) {
		t.Errorf("%d requests, want %d", n, events*len(all))
	}
}

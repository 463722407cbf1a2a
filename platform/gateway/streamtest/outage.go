// Package streamtest is what streams promise to their clients on every broker, over
// HTTP, while the broker goes away and comes back.
package streamtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/brokertest"
	"github.com/countermand/countermand/platform/gateway"
)

const (
	// patience bounds what should come within seconds.
	patience = time.Minute
	// each is how many events each key has, before the last one.
	each = 600
	// away is how long the broker is away each time.
	away = time.Second
)

var keys = []string{"a", "b", "c"}

const routes = `
version: 1
routes:
  - {id: all, kind: stream, match: GET /v1/events, types: [outage.things.made.v1], heartbeat: 1s}
  - {id: one, kind: stream, match: "GET /v1/things/{key}/events", types: [outage.things.made.v1], heartbeat: 1s, filters: [{exact: {subject: "{key}"}}]}
`

// Outage stops the server twice while events come in and clients of every kind follow
// them at two gateways. A client that loses its stream goes on after the last position
// it has, at the other gateway. Each must get what the topic holds, every event once and
// in the order of its key.
func Outage(t *testing.T, server brokertest.Server) {
	t.Helper()
	const fact = "outage.things.made.v1"
	publisher := server.Connect(t)
	if err := publisher.Ensure(t.Context(), events.FactTopic(fact)); err != nil {
		t.Fatal(err)
	}
	gateways := []string{serve(t, fact, server.Connect(t)), serve(t, fact, server.Connect(t))}
	var clients []*client
	for name, follow := range map[string]func(context.Context, *client) error{
		"server-sent events":                   sse,
		"server-sent events, cut now and then": sseCut,
		"long poll":                            poll,
		"WebSocket":                            socket,
	} {
		clients = append(clients,
			&client{name: name, path: "/v1/events", keys: keys, follow: follow},
			&client{name: name + " of one key", path: "/v1/things/b/events", keys: keys[1:2], follow: follow})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var following sync.WaitGroup
	defer following.Wait()
	begin := func(c *client, turn int, gateways ...string) {
		c.gateways, c.turn, c.seen = gateways, turn, make(map[string][]string)
		following.Go(func() { c.run(ctx, t) })
	}
	for i, c := range clients {
		begin(c, i, gateways...)
	}

	var stored atomic.Int64
	var publishing sync.WaitGroup
	for _, key := range keys {
		publishing.Go(func() {
			for n := 0; n < each; n += 10 {
				if err := insist(ctx, publisher, fact, key, n, n+10); err != nil {
					t.Error(err)
					return
				}
				stored.Add(10)
				time.Sleep(5 * time.Millisecond) // a stream of events, not a heap
			}
			if err := insist(ctx, publisher, fact, key, each, each+1); err != nil {
				t.Error(err)
			}
		})
	}
	for turn := range int64(2) {
		for moment := (turn + 1) * int64(len(keys)) * each / 3; stored.Load() < moment && ctx.Err() == nil; {
			time.Sleep(time.Millisecond)
		}
		one := &client{name: fmt.Sprintf("one who comes in outage %d", turn+1), path: "/v1/events", keys: keys, follow: sse}
		late := serve(t, fact, server.Connect(t)) // knows nothing of the topic yet
		server.Stop(t)
		begin(one, 0, late)
		clients = append(clients, one)
		time.Sleep(away)
		server.Start(t)
	}
	publishing.Wait()
	following.Wait()
	log := contents(ctx, t, publisher, events.FactTopic(fact))
	for _, c := range clients {
		for _, key := range c.keys {
			if diff := firstDifference(c.seen[key], log[key]); diff != "" {
				t.Errorf("%s: of key %s %s", c.name, key, diff)
			}
		}
	}
}

// firstDifference tells where two sequences part; empty when they do not.
func firstDifference(got, want []string) string {
	const shown = 5
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			return fmt.Sprintf("it got %d events and the topic holds %d; after %d of them %v, want %v",
				len(got), len(want), i, got[min(i, len(got)):min(i+shown, len(got))], want[min(i, len(want)):min(i+shown, len(want))])
		}
	}
	return ""
}

// contents reads what the topic holds of each key. On Kafka that may be more than was
// published: who gets no answer publishes again, and the copy is told apart later.
func contents(ctx context.Context, t *testing.T, b broker.Broker, topic events.Topic) map[string][]string {
	t.Helper()
	from := make(map[int]broker.Start)
	for partition := range b.Partitions() {
		from[partition] = broker.Start{}
	}
	reader, err := b.Read(ctx, topic, from)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	all := &client{keys: keys, seen: make(map[string][]string)}
	for !all.full() {
		batch, err := reader.Next(ctx, 256)
		if err != nil {
			t.Fatal(err)
		}
		for i := range batch {
			all.take(batch[i].Event.ID, "")
		}
	}
	return all.seen
}

// serve runs a gateway on the broker and returns its base URL.
func serve(t *testing.T, fact string, b broker.Broker) string {
	t.Helper()
	table, err := gateway.ParseTable("routes.yaml", []byte(routes),
		gateway.Contracts{Facts: []gateway.Fact{{Type: fact, Schema: []byte(`{}`)}}}, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	committer := broker.NewCommitter(b, 0)
	t.Cleanup(committer.Close)
	g, err := gateway.New(gateway.Config{Secret: []byte("the same for all gateways"), Logger: slog.New(slog.DiscardHandler)}, table,
		gateway.Deps{Publisher: committer, Operations: none{}, Lookup: b.Lookup, Source: b})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(g)
	t.Cleanup(func() {
		g.Drain()
		server.Close()
		if err := g.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return server.URL
}

// none knows no operations, which streams do not ask for.
type none struct{ gateway.Operations }

// insist publishes events of a key until all are stored, as a relay does.
func insist(ctx context.Context, b broker.Broker, fact, key string, from, to int) error {
	var left []broker.Message
	for n := from; n < to; n++ {
		id := fmt.Sprintf("%s-%d", key, n)
		left = append(left, broker.Message{Topic: events.FactTopic(fact), PublishID: id, Event: events.Event{
			ID: id, Source: "/outage", Type: fact, Subject: key, PartitionKey: key,
			DataContentType: events.ContentTypeJSON, Data: []byte(`{}`),
		}})
	}
	for {
		var unstored []broker.Message
		var why error
		attempt, cancel := context.WithTimeout(ctx, 2*away)
		for i, receipt := range b.PublishBatch(attempt, left) {
			if receipt.Err != nil {
				unstored, why = append(unstored, left[i]), receipt.Err
			}
		}
		cancel()
		if left = unstored; len(left) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("publish %s: %w", left[0].PublishID, errors.Join(ctx.Err(), why))
		}
	}
}

// client is one who follows until it has the last event of its keys.
type client struct {
	name   string
	path   string
	keys   []string
	follow func(context.Context, *client) error

	gateways []string
	turn     int                 // which gateway is next
	position string              // after the last event it has
	seen     map[string][]string // events by key
}

// url is where the client goes next.
func (c *client) url() string {
	c.turn++
	return c.gateways[c.turn%len(c.gateways)] + c.path
}

// run follows until the client has everything, or ctx ends. follow returns an error for
// what must never be answered.
func (c *client) run(ctx context.Context, t *testing.T) {
	for !c.full() && ctx.Err() == nil {
		if err := c.follow(ctx, c); err != nil {
			t.Errorf("%s: after %v: %v", c.name, c.seen, err)
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func last(key string) string { return fmt.Sprintf("%s-%d", key, each) }

func (c *client) full() bool {
	return !slices.ContainsFunc(c.keys, func(key string) bool { return len(c.seen[key]) == 0 || c.seen[key][len(c.seen[key])-1] != last(key) })
}

// take takes an event and the position after it. What comes after the last one of a key
// is a copy.
func (c *client) take(id, position string) {
	key, _, _ := strings.Cut(id, "-")
	if has := c.seen[key]; len(has) == 0 || has[len(has)-1] != last(key) {
		c.seen[key] = append(has, id)
	}
	c.position = position
}

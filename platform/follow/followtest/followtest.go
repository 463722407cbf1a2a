// Package followtest is what a hub promises on every broker.
package followtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/filter"
	"github.com/countermand/countermand/platform/follow"
)

// patience bounds what a test waits for that should come soon.
const patience = 30 * time.Second

// Run runs the suite on a broker. remake removes a topic with everything in it.
func Run(t *testing.T, b broker.Broker, remake func(t *testing.T, topic events.Topic)) {
	t.Helper()
	s := &suite{b, remake}
	t.Run("now", s.now)
	t.Run("starts", s.starts)
	t.Run("resuming", s.resuming)
	t.Run("many at once", s.many)
	t.Run("filters", s.filters)
	t.Run("positions", s.positions)
	t.Run("idle", s.idle)
	t.Run("limits", s.limits)
	t.Run("ends", s.ends)
}

type suite struct {
	broker broker.Broker
	remake func(t *testing.T, topic events.Topic)
}

// rig is a hub on a topic of its own.
type rig struct {
	*follow.Hub
	broker broker.Broker
	topic  events.Topic
}

func config(change ...func(*follow.Config)) follow.Config {
	c := follow.Config{Secret: []byte("secret"), Logger: slog.New(slog.DiscardHandler)}
	for _, change := range change {
		change(&c)
	}
	return c
}

func (s *suite) rig(t *testing.T, change ...func(*follow.Config)) *rig {
	t.Helper()
	return s.rigOn(t, s.broker, change...)
}

func (s *suite) rigOn(t *testing.T, source follow.Source, change ...func(*follow.Config)) *rig {
	t.Helper()
	r := &rig{Hub: follow.New(source, config(change...)), broker: s.broker, topic: events.Topic("f" + events.NewID()[24:] + ".things.events")}
	t.Cleanup(r.Close)
	if err := s.broker.Ensure(t.Context(), r.topic); err != nil {
		t.Fatal(err)
	}
	return r
}

// publish stores events named a-from to before a-to; the key is the name's letter.
func (r *rig) publish(t *testing.T, key string, from, to int) []string {
	t.Helper()
	var ids []string
	var messages []broker.Message
	for n := from; n < to; n++ {
		id := fmt.Sprintf("%s-%d", key, n)
		ids = append(ids, id)
		messages = append(messages, broker.Message{Topic: r.topic, PublishID: string(r.topic) + id, Event: events.Event{
			ID: id, Source: "/test", Type: "test.things.made.v1", Subject: key, PartitionKey: key, Data: []byte(`{}`), DataContentType: events.ContentTypeJSON,
		}})
	}
	for chunk := range slices.Chunk(messages, broker.BatchMessagesMax) {
		for _, receipt := range r.broker.PublishBatch(t.Context(), chunk) {
			if receipt.Err != nil {
				t.Fatal(receipt.Err)
			}
		}
	}
	return ids
}

func (r *rig) follow(t *testing.T, start follow.Start, wanted *filter.Filter) *follow.Follower {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	f, err := r.Follow(ctx, r.topic, start, wanted)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

type item struct{ id, position string }

// take returns n items.
func take(t *testing.T, f *follow.Follower, n int) []item {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all []item
	for len(all) < n {
		items, err := f.Next(ctx, min(n-len(all), 64))
		if err != nil {
			t.Fatalf("after %d of %d: %v", len(all), n, err)
		}
		for _, i := range items {
			all = append(all, item{idOf(t, i.JSON), i.Position})
		}
	}
	return all
}

func idOf(t *testing.T, document []byte) string {
	t.Helper()
	var e struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(document, &e); err != nil || strings.ContainsAny(string(document), "\r\n") {
		t.Fatalf("%q: %v", document, err)
	}
	return e.ID
}

func ids(items []item) []string {
	all := make([]string, len(items))
	for i := range items {
		all[i] = items[i].id
	}
	return all
}

// nothing checks that nothing more comes.
func nothing(t *testing.T, f *follow.Follower) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
	defer cancel()
	if items, err := f.Next(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%d more came, %v", len(items), err)
	}
}

func (s *suite) now(t *testing.T) {
	r := s.rig(t)
	r.publish(t, "a", 0, 10)
	f, other := r.follow(t, follow.Start{}, nil), r.follow(t, follow.Start{}, nil)
	want := r.publish(t, "a", 10, 30)
	for _, f := range []*follow.Follower{f, other} {
		if got := ids(take(t, f, 20)); !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
		nothing(t, f)
	}
}

func (s *suite) starts(t *testing.T) {
	r := s.rig(t)
	first := r.publish(t, "a", 0, 10)
	time.Sleep(50 * time.Millisecond) // clocks of servers tick in milliseconds
	middle := time.Now()
	time.Sleep(50 * time.Millisecond)
	second := r.publish(t, "a", 10, 20)
	f := r.follow(t, follow.Start{Earliest: true}, nil)
	if got := ids(take(t, f, 20)); !slices.Equal(got, slices.Concat(first, second)) {
		t.Errorf("from the earliest: %v", got)
	}
	since := r.follow(t, follow.Start{Since: middle}, nil)
	if got := ids(take(t, since, 10)); !slices.Equal(got, second) {
		t.Errorf("since: %v", got)
	}
	third := r.publish(t, "a", 20, 25)
	for _, f := range []*follow.Follower{f, since} {
		if got := ids(take(t, f, 5)); !slices.Equal(got, third) {
			t.Errorf("then: %v", got)
		}
	}
}

// resuming goes away and comes back again and again while events of several keys
// are published, to another hub now and then.
func (s *suite) resuming(t *testing.T) {
	r := s.rig(t, func(c *follow.Config) { c.KeptMax = 100 })
	second := follow.New(s.broker, config(func(c *follow.Config) { c.KeptMax = 10 }))
	t.Cleanup(second.Close)
	keys, each := []string{"a", "b", "c", "d"}, 300
	seed := rand.Uint64()                 //nolint:gosec // chance, not a secret
	rnd := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // likewise
	position := r.follow(t, follow.Start{}, nil).Position()
	var publishing sync.WaitGroup
	for _, key := range keys {
		publishing.Go(func() {
			for n := 0; n < each; n += 20 {
				r.publish(t, key, n, n+20)
			}
		})
	}
	defer publishing.Wait()
	seen := make(map[string]int) // by key: how many
	var twice int
	for total := 0; total < len(keys)*each; {
		hub := r.Hub
		if rnd.IntN(2) == 0 {
			hub = second
		}
		f, err := hub.Follow(t.Context(), r.topic, follow.Start{After: position}, nil)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for stay := rnd.IntN(200); stay >= 0 && total < len(keys)*each; {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			items, err := f.Next(ctx, 1+rnd.IntN(30))
			cancel()
			if errors.Is(err, follow.ErrOverrun) {
				break // it goes on from its position
			}
			if err != nil {
				t.Fatalf("seed %d: %v with %v", seed, err, seen)
			}
			if rnd.IntN(3) == 0 {
				items = items[:1] // the rest was lost on the way
			}
			for _, i := range items {
				key, number, _ := strings.Cut(idOf(t, i.JSON), "-")
				var n int
				_, _ = fmt.Sscan(number, &n)
				switch {
				case n < seen[key]:
					twice++
				case n == seen[key]:
					seen[key]++
					total++
				default:
					t.Fatalf("seed %d: %s-%d comes after %d of its key", seed, key, n, seen[key])
				}
				position = i.Position
				stay--
			}
			if len(items) == 1 {
				break
			}
		}
		f.Close()
	}
	if twice > 0 { // at least once is what is promised; here nothing goes wrong
		t.Errorf("seed %d: %d events came twice", seed, twice)
	}
}

func (s *suite) many(t *testing.T) {
	r := s.rig(t, func(c *follow.Config) { c.CatchUpMax = 1 })
	want := r.publish(t, "a", 0, 1500)
	leaving := r.follow(t, follow.Start{Earliest: true}, nil)
	take(t, leaving, 1)
	leaving.Close() // with the only place
	var followers []*follow.Follower
	for range 4 {
		followers = append(followers, r.follow(t, follow.Start{Earliest: true}, nil))
	}
	var all sync.WaitGroup
	for _, f := range followers { // each gives its place to the next once it has caught up
		all.Go(func() {
			if got := ids(take(t, f, 2000)); !slices.Equal(got[:1500], want) || got[1999] != "a-1999" {
				t.Errorf("%d came, the last is %s", len(got), got[len(got)-1])
			}
		})
	}
	r.publish(t, "a", 1500, 2000)
	all.Wait()
}

func (s *suite) filters(t *testing.T) {
	r := s.rig(t)
	wanted, err := filter.Parse([]byte(`[{"exact":{"subject":"b"}}]`))
	if err != nil {
		t.Fatal(err)
	}
	before := r.publish(t, "b", 0, 3)
	past := r.follow(t, follow.Start{Earliest: true}, wanted)
	if got := ids(take(t, past, 3)); !slices.Equal(got, before) {
		t.Errorf("of the past: %v", got)
	}
	f := r.follow(t, follow.Start{}, wanted)
	begin := f.Position()
	r.publish(t, "a", 0, 5)
	want := r.publish(t, "b", 3, 6)
	r.publish(t, "a", 5, 10)
	for _, f := range []*follow.Follower{past, f} {
		if got := ids(take(t, f, 3)); !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
		nothing(t, f)
	}
	if f.Position() == begin {
		t.Error("the position is where it was")
	}
	again := r.follow(t, follow.Start{After: begin}, wanted)
	if got := ids(take(t, again, 3)); !slices.Equal(got, want) {
		t.Errorf("once more: %v", got)
	}
}

func (s *suite) positions(t *testing.T) {
	r := s.rig(t)
	f := r.follow(t, follow.Start{}, nil)
	r.publish(t, "a", 0, 3)
	at := take(t, f, 3)[0].position
	flipped := []byte(at)
	flipped[8] ^= 1
	stranger := follow.New(s.broker, config(func(c *follow.Config) { c.Secret = []byte("another") }))
	t.Cleanup(stranger.Close)
	elsewhere := s.rig(t)
	for name, one := range map[string]struct {
		hub   *follow.Hub
		topic events.Topic
		text  string
	}{
		"no base64":        {r.Hub, r.topic, "!"},
		"too short":        {r.Hub, r.topic, "AQ"},
		"changed":          {r.Hub, r.topic, string(flipped)},
		"too long":         {r.Hub, r.topic, strings.Repeat("A", 10_000)},
		"another secret":   {stranger, r.topic, at},
		"another topic's":  {r.Hub, elsewhere.topic, at},
		"with line breaks": {r.Hub, r.topic, at[:8] + "\n" + at[8:]},
	} {
		if _, err := one.hub.Follow(t.Context(), one.topic, follow.Start{After: one.text}, nil); !errors.Is(err, follow.ErrPosition) {
			t.Errorf("%s: %v, want ErrPosition", name, err)
		}
	}
	replica := follow.New(s.broker, config())
	t.Cleanup(replica.Close)
	other, err := replica.Follow(t.Context(), r.topic, follow.Start{After: at}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	if got := ids(take(t, other, 2)); !slices.Equal(got, []string{"a-1", "a-2"}) {
		t.Errorf("a replica gives %v", got)
	}
	f.Close()
	s.remake(t, r.topic)
	if err := s.broker.Ensure(t.Context(), r.topic); err != nil {
		t.Fatal(err)
	}
	anew := follow.New(s.broker, config())
	t.Cleanup(anew.Close)
	if _, err := anew.Follow(t.Context(), r.topic, follow.Start{After: at}, nil); !errors.Is(err, follow.ErrGone) {
		t.Errorf("of a topic made anew: %v, want ErrGone", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := other.Next(ctx, 1); !errors.Is(err, follow.ErrGone) {
		t.Errorf("a follower of what was removed: %v, want ErrGone", err)
	}
}

// deleting is a broker that has deleted everything up to its newest.
type deleting struct {
	broker.Broker
	gone  atomic.Bool
	reads atomic.Int32
}

func (d *deleting) Read(ctx context.Context, topic events.Topic, from map[int]broker.Start) (broker.Reader, error) {
	d.reads.Add(1)
	return d.Broker.Read(ctx, topic, from)
}

func (d *deleting) Bounds(ctx context.Context, topic events.Topic) (oldest, newest map[int]broker.Start, err error) {
	oldest, newest, err = d.Broker.Bounds(ctx, topic)
	if d.gone.Load() {
		oldest = newest
	}
	return oldest, newest, err
}

// idle is about a topic in which nothing happens while others of its domain go on and
// retention passes over what was.
func (s *suite) idle(t *testing.T) {
	source := &deleting{Broker: s.broker}
	r := s.rigOn(t, source, func(c *follow.Config) { c.CheckInterval, c.Linger = 20*time.Millisecond, time.Nanosecond })
	neighbour := &rig{broker: s.broker, topic: events.Topic(r.topic.Domain() + ".others.events")}
	if err := s.broker.Ensure(t.Context(), neighbour.topic); err != nil {
		t.Fatal(err)
	}
	f := r.follow(t, follow.Start{}, nil)
	first := f.Position()
	neighbour.publish(t, "a", 0, 3)
	if s.broker.Sequenced() { // its offsets have moved on
		for began := time.Now(); f.Position() == first; time.Sleep(10 * time.Millisecond) {
			if time.Since(began) > patience {
				t.Fatal("the position of an idle topic grows old")
			}
		}
	}
	f.Close()
	time.Sleep(100 * time.Millisecond) // the feed that knew better is gone
	source.gone.Store(true)
	again, err := r.Follow(t.Context(), r.topic, follow.Start{After: first}, nil)
	if err != nil {
		t.Fatalf("nothing was deleted: %v", err)
	}
	nothing(t, again)
	again.Close()
	if n := source.reads.Load(); n != 2 {
		t.Errorf("%d readers were opened, and nothing was to be read but what comes: want one for each feed", n)
	}
	r.publish(t, "a", 0, 1)
	time.Sleep(100 * time.Millisecond)
	if _, err := r.Follow(t.Context(), r.topic, follow.Start{After: first}, nil); !errors.Is(err, follow.ErrGone) {
		t.Errorf("an event was deleted: %v, want ErrGone", err)
	}
}

func (s *suite) limits(t *testing.T) {
	r := s.rig(t, func(c *follow.Config) { c.KeptMax = 10 })
	slow, quick := r.follow(t, follow.Start{}, nil), r.follow(t, follow.Start{}, nil)
	want := r.publish(t, "a", 0, 8)
	first := take(t, slow, 3)
	if got := ids(take(t, quick, 8)); !slices.Equal(got, want) {
		t.Errorf("the quick one got %v", got)
	}
	for n := 8; n < 28; n += 2 { // what is kept does not wait for the slow one
		r.publish(t, "a", n, n+2)
		take(t, quick, 2)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if items, err := slow.Next(ctx, 1); !errors.Is(err, follow.ErrOverrun) {
		t.Fatalf("the slow one got %d, %v, want ErrOverrun", len(items), err)
	}
	if slow.Position() != first[2].position {
		t.Error("its position is not after what it was given")
	}
	again := r.follow(t, follow.Start{After: slow.Position()}, nil)
	if got := ids(take(t, again, 25)); got[0] != "a-3" || got[24] != "a-27" {
		t.Errorf("then it gets %v", got)
	}
}

func (s *suite) ends(t *testing.T) {
	r := s.rig(t)
	f, ready := r.follow(t, follow.Start{}, nil), r.follow(t, follow.Start{Earliest: true}, nil)
	if items, err := ready.Ready(t.Context(), 10); len(items) > 0 || err != nil {
		t.Errorf("there is %d, %v", len(items), err)
	}
	r.publish(t, "a", 0, 1)
	take(t, f, 1)
	if items, err := ready.Ready(t.Context(), 10); len(items) != 1 || err != nil {
		t.Errorf("there is %d, %v", len(items), err)
	}
	position := f.Position()
	done := make(chan error, 1)
	go func() {
		_, err := f.Next(context.Background(), 1)
		done <- err
	}()
	r.Close()
	if err := <-done; !errors.Is(err, follow.ErrClosed) {
		t.Errorf("error = %v, want ErrClosed", err)
	}
	if f.Position() != position {
		t.Error("the position is another")
	}
	if _, err := r.Follow(t.Context(), r.topic, follow.Start{}, nil); !errors.Is(err, follow.ErrClosed) {
		t.Errorf("after that: %v, want ErrClosed", err)
	}
	missing := follow.New(s.broker, config())
	t.Cleanup(missing.Close)
	if _, err := missing.Follow(t.Context(), "missing.events", follow.Start{}, nil); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("a topic that is none: %v", err)
	}
}

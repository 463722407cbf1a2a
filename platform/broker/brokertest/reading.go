package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

func (s *suite) reading(t *testing.T) {
	t.Run("it begins after the positions it is given", func(t *testing.T) {
		r := s.rig(t)
		receipts := r.publish(t, slices.Concat(r.messages("a", 0, 10), r.messages("c", 0, 10))...)
		a, other := receipts[0].Partition, receipts[10].Partition
		reader := r.read(t, map[int]broker.Start{a: {After: receipts[6].Offset}, other: {After: receipts[14].Offset}})
		got := ids(next(t, reader, 8))
		slices.Sort(got)
		if want := slices.Concat(keyIDs("a", 7, 10), keyIDs("c", 5, 10)); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	t.Run("it leaves other partitions alone", func(t *testing.T) {
		r := s.rig(t)
		partition := broker.Partition("a", r.Partitions())
		for n := range 50 {
			r.publish(t, r.message(fmt.Sprint("other", n), 0))
		}
		r.publish(t, r.messages("a", 0, 3)...)
		reader := r.read(t, map[int]broker.Start{partition: {}})
		for last := ""; last != "a-2"; {
			d := next(t, reader, 1)[0]
			if d.Partition != partition {
				t.Errorf("%s is of partition %d", d.Event.ID, d.Partition)
			}
			last = d.Event.ID
		}
	})
	t.Run("a batch is what has arrived, and no more than asked for", func(t *testing.T) {
		r := s.rig(t)
		reader := r.read(t, r.everything())
		r.publish(t, r.messages("a", 0, 5)...)
		got := next(t, reader, 1)
		for len(got) < 5 {
			batch, err := reader.Next(t.Context(), 2)
			if err != nil || len(batch) == 0 || len(batch) > 2 {
				t.Fatalf("Next(2) = %d deliveries, %v", len(batch), err)
			}
			got = append(got, batch...)
		}
		if !slices.Equal(ids(got), keyIDs("a", 0, 5)) {
			t.Errorf("got %v", ids(got))
		}
	})
	t.Run("it waits for what comes later, or for the end of the context", func(t *testing.T) {
		r := s.rig(t)
		reader := r.read(t, r.everything())
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if got, err := reader.Next(ctx, 10); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Next = %v, %v, want the context's error", got, err)
		}
		r.publish(t, r.message("a", 1))
		if got := ids(next(t, reader, 1)); got[0] != "a-1" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("a slow reader misses nothing and holds nobody up", func(t *testing.T) {
		r := s.rig(t)
		slow := r.read(t, r.everything())
		next0 := r.publish(t, r.message("a", 0))
		next(t, slow, 1)
		const many = 4000 // more than a reader holds
		r.publish(t, r.messages("a", 1, many)...)
		quick := r.read(t, map[int]broker.Start{next0[0].Partition: {}})
		if got := ids(next(t, quick, many)); !slices.Equal(got, keyIDs("a", 0, many)) {
			t.Errorf("the quick reader got %d", len(got))
		}
		if got := ids(next(t, slow, many-1)); !slices.Equal(got, keyIDs("a", 1, many)) {
			t.Errorf("the slow reader got %d", len(got))
		}
	})
	t.Run("a topic that is made anew ends it", func(t *testing.T) {
		r := s.rig(t)
		r.publish(t, r.messages("a", 0, 10)...)
		reader := r.read(t, r.everything())
		next(t, reader, 10)
		r.makeAnew(t)
		r.publish(t, r.messages("a", 100, 130)...) // beyond where the reader stands
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if got, err := reader.Next(ctx, 10); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("Next = %v, %v, want ErrNotFound", ids(got), err)
		}
	})
	t.Run("no partitions or no topic is an error", func(t *testing.T) {
		r := s.rig(t)
		if _, err := r.Read(t.Context(), r.topic, nil); err == nil {
			t.Error("no partitions were let through")
		}
		if _, err := r.Read(t.Context(), "missing.events", r.everything()); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("error = %v, want ErrNotFound", err)
		}
		if _, err := r.Tail(t.Context(), "missing.events"); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("error = %v, want ErrNotFound", err)
		}
	})
	t.Run("after Close there is nothing", func(t *testing.T) {
		r := s.rig(t)
		reader, err := r.Read(t.Context(), r.topic, r.everything())
		if err != nil {
			t.Fatal(err)
		}
		reader.Close()
		if _, err := reader.Next(t.Context(), 1); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("error = %v, want ErrUnavailable", err)
		}
	})
	t.Run("a tail delivers what is published from now on, from every partition", func(t *testing.T) {
		r := s.rig(t)
		r.publish(t, r.messages("before", 0, 10)...)
		reader, err := r.Tail(t.Context(), r.topic)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(reader.Close)
		var want []string
		for n := range 20 {
			r.publish(t, r.message(fmt.Sprint("key", n), n))
			want = append(want, fmt.Sprintf("key%d-%d", n, n))
		}
		got := ids(next(t, reader, 20))
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func (s *suite) replay(t *testing.T) {
	r := s.rig(t)
	since := func(t *testing.T, at time.Time) map[int]broker.Start {
		t.Helper()
		from, err := r.Since(t.Context(), r.topic, at)
		if err != nil {
			t.Fatal(err)
		}
		if len(from) != r.Partitions() {
			t.Fatalf("%d partitions, want %d", len(from), r.Partitions())
		}
		return from
	}
	begin := time.Now()
	r.publish(t, slices.Concat(r.messages("a", 0, 20), r.messages("c", 0, 20))...)
	// What lies on both sides of the middle: clocks of servers tick in milliseconds.
	time.Sleep(50 * time.Millisecond)
	middle := time.Now()
	time.Sleep(50 * time.Millisecond)
	r.publish(t, slices.Concat(r.messages("a", 20, 30), r.messages("c", 20, 25))...)
	sorted := func(deliveries []broker.Delivery) []string {
		got := ids(deliveries)
		slices.Sort(got)
		return got
	}
	t.Run("from a time on", func(t *testing.T) {
		reader := r.read(t, since(t, middle))
		if got, want := sorted(next(t, reader, 15)), slices.Concat(keyIDs("a", 20, 30), keyIDs("c", 20, 25)); !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
		nothing(t, reader)
	})
	t.Run("from a time before everything", func(t *testing.T) {
		reader := r.read(t, since(t, begin.Add(-time.Hour)))
		if n := len(next(t, reader, 55)); n != 55 {
			t.Errorf("%d came", n)
		}
		nothing(t, reader)
	})
	t.Run("from a time after everything, what comes then", func(t *testing.T) {
		reader := r.read(t, since(t, time.Now().Add(time.Hour)))
		nothing(t, reader)
		r.publish(t, r.message("a", 30))
		if got := ids(next(t, reader, 1)); got[0] != "a-30" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("from a position, as often as wanted", func(t *testing.T) {
		a := broker.Partition("a", r.Partitions())
		all := next(t, r.read(t, map[int]broker.Start{a: {}}), 31)
		for _, n := range []int{0, 7, 29} {
			reader := r.read(t, map[int]broker.Start{a: {After: all[n].Offset}})
			if got, want := ids(next(t, reader, 30-n)), ids(all[n+1:]); !slices.Equal(got, want) {
				t.Errorf("after %s: %v", all[n].Event.ID, got)
			}
		}
	})
	t.Run("a topic that is none has no times", func(t *testing.T) {
		if _, err := r.Since(t.Context(), "missing.events", begin); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("error = %v, want ErrNotFound", err)
		}
	})
}

func (s *suite) backlog(t *testing.T) {
	r := s.rig(t)
	receipts := r.publish(t, slices.Concat(r.messages("a", 0, 10), r.messages("c", 0, 5))...)
	a, other := receipts[0].Partition, broker.Partition("c", r.Partitions())
	for what, one := range map[string]struct {
		from map[int]broker.Start
		want uint64
	}{
		"everything":                {r.everything(), 15},
		"nothing":                   {nil, 0},
		"one partition":             {map[int]broker.Start{other: {}}, 5},
		"what lies after positions": {map[int]broker.Start{a: {After: receipts[3].Offset}, other: {}}, 11},
		"no more at the end":        {map[int]broker.Start{a: {After: receipts[9].Offset}}, 0},
		"no more beyond the end":    {map[int]broker.Start{a: {After: 1000}}, 0},
	} {
		t.Run("it counts "+what, func(t *testing.T) {
			if got, err := r.Backlog(t.Context(), r.topic, one.from); err != nil || got != one.want {
				t.Errorf("Backlog = %d, %v, want %d", got, err, one.want)
			}
		})
	}
	t.Run("a topic that is none has no backlog to count", func(t *testing.T) {
		if _, err := r.Backlog(t.Context(), "missing.events", r.everything()); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("error = %v, want ErrNotFound", err)
		}
	})
}

func (s *suite) lookup(t *testing.T) {
	r := s.rig(t)
	at := r.publish(t, r.message("a", 1))[0]
	for what, where := range map[string]struct {
		topic     events.Topic
		partition int
		offset    uint64
	}{
		"after the last message":  {r.topic, at.Partition, at.Offset + 98},
		"right behind it":         {r.topic, at.Partition, at.Offset + 1},
		"at zero":                 {r.topic, at.Partition, 0},
		"in another partition":    {r.topic, (at.Partition + 1) % r.Partitions(), at.Offset},
		"in no partition":         {r.topic, r.Partitions(), at.Offset},
		"in a topic that is none": {"missing.events", 0, 1},
	} {
		t.Run("there is nothing "+what, func(t *testing.T) {
			if d, err := r.Lookup(t.Context(), where.topic, where.partition, where.offset); !errors.Is(err, broker.ErrNotFound) {
				t.Errorf("got %+v, %v, want ErrNotFound", d, err)
			}
		})
	}
}

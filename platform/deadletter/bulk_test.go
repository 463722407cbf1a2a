package deadletter_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/deadletter"
)

func TestBulk(t *testing.T) {
	t.Parallel()
	s := setup(t, consumertest.Config{})
	s.fail(never, "a", "b", "c", "d")
	s.send("k1", "a", "b")
	s.letters(2)
	s.send("k2", "c")
	unknown := consumertest.Command(t, paint, "k3", part{"x"})
	unknown.Type = "test.part.polish.v1"
	s.Send(unknown)
	s.letters(4)
	groups, err := s.store.Groups(t.Context(), deadletter.Filter{})
	if err != nil || len(groups) != 2 || groups[0].Count != 3 || groups[0].Reason != "terminal" || groups[1].Reason != "no_handler" || groups[1].EventType != unknown.Type {
		t.Fatalf("%+v, %v", groups, err)
	}
	s.fail(nil, "a", "b", "c", "d")
	stores := []*deadletter.Store{s.store}
	run := func(bulk deadletter.Bulk) (deadletter.BulkCount, int, error) {
		told := 0
		bulk.Order.By, bulk.Order.Reason = "ada", "ticket 2"
		count, err := deadletter.RunBulk(t.Context(), stores, bulk, func(int) {}, func(deadletter.BulkItem) { told++ })
		return count, told, err
	}
	redrive := deadletter.Bulk{Verb: deadletter.VerbRedrive, Filter: deadletter.Filter{Reason: "terminal"}}

	dry := redrive
	dry.Order.DryRun = true
	if count, told, err := run(dry); err != nil || count.Done != 3 || told != 3 {
		t.Errorf("dry run %+v, %d told, %v", count, told, err)
	}
	s.wantPainted()
	wrong := redrive
	wrong.Expected = 4
	_, told, err := run(wrong)
	if wantRefused(t, err, "count_differs"); told != 0 {
		t.Errorf("%d told", told)
	}
	slow := redrive
	slow.Expected, slow.Rate, slow.TimeMax = 3, 20, time.Nanosecond
	if _, told, err = run(slow); !errors.Is(err, deadletter.ErrTimeUp) || told != 0 {
		t.Errorf("%d told, %v", told, err)
	}
	group := redrive
	group.Filter.Key, group.Expected = "k1", 2
	if count, _, err := run(group); err != nil || count.Done != 2 {
		t.Errorf("%+v, %v", count, err)
	}
	s.wantPainted("a", "b")
	s.letters(2)
	discard := deadletter.Bulk{Verb: deadletter.VerbDiscard, Filter: deadletter.Filter{Error: "no handler"}, Expected: 1}
	if count, _, err := run(discard); err != nil || count.Done != 1 {
		t.Errorf("%+v, %v", count, err)
	}
	if l := s.letters(1)[0]; l.Key != "k2" {
		t.Errorf("left is %+v", l)
	}
}

func TestBulkDoesNotRedriveWhatDiesTooOften(t *testing.T) {
	t.Parallel()
	s := setup(t, consumertest.Config{})
	s.fail(never, "a", "b")
	s.send("k", "a")
	l := s.letters(1)[0]
	for n := range deadletter.RedrivesMax {
		s.redrive(l)
		s.awaitState(number(t, l), deadletter.Dead, n+1)
	}
	s.send("k", "b")
	s.letters(2)
	var items []deadletter.BulkItem
	count, err := deadletter.RunBulk(t.Context(), []*deadletter.Store{s.store}, deadletter.Bulk{
		Verb: deadletter.VerbRedrive, Order: byAda, Expected: 2,
	}, func(int) {}, func(item deadletter.BulkItem) { items = append(items, item) })
	if err != nil || count.Done != 1 || count.Refused != 1 || items[0].Code != "redriven_too_often" {
		t.Errorf("%+v, %+v, %v", count, items, err)
	}
}

func TestABulkOrderDoesNotWaitBeyondItsTime(t *testing.T) {
	t.Parallel()
	s := setup(t, consumertest.Config{})
	s.fail(never, "a", "b")
	s.send("k", "a", "b")
	s.letters(2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	count, err := deadletter.RunBulk(ctx, []*deadletter.Store{s.store}, deadletter.Bulk{
		Verb: deadletter.VerbDiscard, Order: byAda, Expected: 2, Rate: 0.001, TimeMax: 30 * time.Second,
	}, func(int) {}, func(deadletter.BulkItem) {})
	if !errors.Is(err, deadletter.ErrTimeUp) || count.Done != 1 {
		t.Errorf("%+v, %v", count, err)
	}
	s.letters(1)
}

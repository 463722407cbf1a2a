package saga_test

import (
	"context"
	"errors"
	"testing"

	"github.com/countermand/countermand/platform/saga"
)

func TestBulk(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (b *bench, all []string) {
		t.Helper()
		b, all = newBench(t), ids(6)
		b.process(starts(t, all...)...)
		for _, id := range all[:2] { // past the pivot
			b.advance(id, "alpha", "beta", "gamma")
		}
		b.exec("delete from outbox")
		return b, all
	}
	bulk := func(verb saga.Verb, expected int) saga.Bulk {
		return saga.Bulk{Order: by(verb), Filter: saga.Filter{Status: saga.Running}, Expected: expected, Rate: 10_000}
	}
	run := func(b *bench, ctx context.Context, order saga.Bulk) (items []saga.BulkItem, begun int, count saga.BulkCount, err error) {
		b.t.Helper()
		count, err = b.engine.Bulk(ctx, order, func(n int) { begun = n }, func(item saga.BulkItem) { items = append(items, item) })
		return items, begun, count, err
	}
	t.Run("each saga is told, and what became of it", func(t *testing.T) {
		t.Parallel()
		b, all := setup(t)
		items, begun, count, err := run(b, t.Context(), bulk(saga.Cancel, 6))
		if err != nil || begun != 6 || len(items) != 6 || count != (saga.BulkCount{Selected: 6, Done: 4, Refused: 2}) {
			t.Fatalf("begun %d, %+v, %+v, %v", begun, count, items, err)
		}
		for _, item := range items {
			late := item.ID == all[0] || item.ID == all[1]
			if late && (item.Outcome != saga.BulkRefused || item.Code != "past_pivot") || !late && (item.Outcome != saga.BulkDone || item.Status != saga.Compensating) {
				t.Errorf("%+v", item)
			}
		}
	})
	t.Run("nothing is done when there are not as many as expected", func(t *testing.T) {
		t.Parallel()
		b, all := setup(t)
		items, _, count, err := run(b, t.Context(), bulk(saga.Pause, 5))
		if code := refusal(t, err); code != "count_differs" || len(items) != 0 || count.Selected != 6 {
			t.Errorf("refused with %s, %+v, %+v", code, count, items)
		}
		b.want(all[5], saga.Running, 1)
	})
	t.Run("a dry run needs no count and changes nothing", func(t *testing.T) {
		t.Parallel()
		b, all := setup(t)
		order := bulk(saga.Cancel, 0)
		order.DryRun = true
		items, _, count, err := run(b, t.Context(), order)
		if err != nil || len(items) != 6 || count.Done != 4 {
			t.Errorf("%+v, %+v, %v", count, items, err)
		}
		b.want(all[5], saga.Running, 1)
		b.wantSent(all[5], "")
	})
	t.Run("what was interrupted is given again", func(t *testing.T) {
		t.Parallel()
		b, all := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		told := 0
		_, err := b.engine.Bulk(ctx, bulk(saga.Abandon, 6), func(int) {}, func(saga.BulkItem) {
			if told++; told == 2 {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) || told != 2 {
			t.Fatalf("%d were told: %v", told, err)
		}
		_, begun, count, err := run(b, t.Context(), bulk(saga.Abandon, 4))
		if err != nil || begun != 4 || count.Done != 4 {
			t.Errorf("begun %d, %+v, %v", begun, count, err)
		}
		for _, id := range all {
			if in, _ := b.stored(id); in.Status != saga.Abandoned {
				t.Errorf("saga %s is %s", id, in.Status)
			}
		}
	})
	t.Run("nobody gives an order without a reason", func(t *testing.T) {
		t.Parallel()
		b, _ := setup(t)
		order := bulk(saga.Pause, 6)
		order.Order.Reason = ""
		if _, _, _, err := run(b, t.Context(), order); refusal(t, err) != "reason_required" {
			t.Error(err)
		}
	})
}

package consumer

import (
	"errors"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/broker"
)

// arrived returns deliveries of a partition.
func arrived(partition, from, to int) (all []broker.Delivery) {
	for offset := from; offset < to; offset++ {
		all = append(all, broker.Delivery{Topic: "t", Partition: partition, Offset: uint64(offset)})
	}
	return all
}

func TestWorkerHoldsLittleOfAStalledPartition(t *testing.T) {
	feed := &Feed{config: FeedConfig{Name: "x", BatchMax: 4, BackoffMin: time.Hour, BackoffMax: time.Hour}.withDefaults(), metrics: newFeedMetrics("x")}
	w := newWorker(feed, []int{0, 1}, nil)
	w.pending, w.missed = make(map[Source][]broker.Delivery), make(map[Source]bool)
	stalled, other := Source{"t", 0}, Source{"t", 1}
	w.add(arrived(0, 1, 3))
	batch := w.next(4)
	batch.Fail(0, errors.New("no"))
	w.settle(batch)
	w.add(arrived(0, 3, 1000))
	w.add(arrived(1, 1, 20))
	w.add(arrived(0, 1000, 1100))
	if n := len(w.pending[stalled]); n != 8 || !w.missed[stalled] {
		t.Errorf("it holds %d deliveries of the partition that waits, want two batches", n)
	}
	if n := len(w.pending[other]); n != 19 || w.missed[other] {
		t.Errorf("it holds %d deliveries of the other one, want all 19", n)
	}
	if ready, _ := w.ready(); ready != 19 {
		t.Errorf("%d deliveries are ready", ready)
	}
	// Nothing is taken in behind the gap, stalled or not.
	w.stalls[stalled] = stall{until: time.Now()}
	batch = w.next(4)
	batch.Done(0)
	w.settle(batch)
	w.add(arrived(0, 1100, 1101))
	if queue := w.pending[stalled]; len(queue) != 7 || queue[6].Offset != 8 {
		t.Errorf("it holds %+v", queue)
	}
}

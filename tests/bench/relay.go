package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
)

// Loads of the benchmark relay.
const (
	writers         = 16
	eventsPerSecond = 6000 // of the backlog, for each second of the duration
)

// relayBench measures the way of events from Postgres to the broker: writers
// commit a business row and one event, or ten, each, then the relay clears the
// backlog, and then both work at the same time. The figures without a prefix are
// of the relay with one event for each transaction.
func relayBench(ctx context.Context, options options) (Report, error) {
	b, report, err := startBus(ctx, options)
	if err != nil {
		return report, err
	}
	defer b.stop()
	if err := b.Ensure(ctx, noted.Topic()); err != nil {
		return report, err
	}
	reader, err := b.fromTheBeginning(ctx, noted.Topic())
	if err != nil {
		return report, err
	}
	defer reader.Close()
	total := 0
	for _, each := range []int{1, 10} {
		if err := b.renew(ctx, nil, "create table business (id bigint generated always as identity primary key, note text not null)"); err != nil {
			return report, err
		}
		backlog := int(eventsPerSecond*options.duration.Seconds()) * min(each, 3)
		load := map[string]any{"events_per_transaction": each, "writers": writers}
		phase := func(name string, do func() (int, error)) error {
			run := Run{Name: fmt.Sprintf("%s_%d", name, each), Load: load}
			options.say("%s, %d of them to a transaction", name, each)
			if err := b.measured(ctx, &run, "event", do); err != nil {
				return err
			}
			report.Runs = append(report.Runs, run)
			return nil
		}
		var n atomic.Int64
		n.Store(int64(total))
		if err := phase("write", func() (int, error) {
			return backlog, b.write(ctx, &n, each, func() bool { return int(n.Load()) < total+backlog }, nil)
		}); err != nil {
			return report, err
		}
		backlog = int(n.Load()) - total
		if err := phase("relay", func() (int, error) { return backlog, b.relay(ctx, nil) }); err != nil {
			return report, err
		}
		if each == 1 {
			head := report.Runs[len(report.Runs)-1]
			for _, figure := range head.Order {
				report.add(figure, head.Figures[figure].Value, head.Figures[figure].Unit)
			}
		}
		if err := phase("both", func() (int, error) {
			before, end := n.Load(), time.Now().Add(options.duration)
			err := b.relay(ctx, func(wake func()) error {
				return b.write(ctx, &n, each, func() bool { return time.Now().Before(end) }, wake)
			})
			return int(n.Load() - before), err
		}); err != nil {
			return report, err
		}
		options.say("checking that each has arrived once, in the order of its key")
		if err := arrived(ctx, reader, total, int(n.Load())); err != nil {
			return report, err
		}
		total = int(n.Load())
	}
	return report, nil
}

// write commits transactions of one business row and some events each, while more
// says so. Each writer has keys of its own, so that the order of a key is known.
func (b *bus) write(ctx context.Context, n *atomic.Int64, each int, more func() bool, wake func()) error {
	var (
		wait  sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	for writer := range writers {
		wait.Go(func() {
			for more() {
				messages := make([]broker.Message, each)
				for i := range messages {
					m, err := message(int(n.Add(1)) - 1)
					if err == nil {
						m.Event.PartitionKey = fmt.Sprintf("writer-%d", writer)
						messages[i] = m
					}
					if err != nil {
						mu.Lock()
						first = err
						mu.Unlock()
						return
					}
				}
				err := postgres.InTx(ctx, b.pool, func(tx pgx.Tx) error {
					var batch pgx.Batch
					batch.Queue("insert into business (note) values ($1)", notes)
					if err := outbox.Queue(&batch, messages...); err != nil {
						return err
					}
					return tx.SendBatch(ctx, &batch).Close()
				})
				if err != nil {
					mu.Lock()
					first = err
					mu.Unlock()
					return
				}
				if wake != nil {
					wake()
				}
			}
		})
	}
	wait.Wait()
	return first
}

// relay runs a relay while beside runs, and until the outbox is empty then.
func (b *bus) relay(ctx context.Context, beside func(wake func()) error) error {
	relay := outbox.NewRelay(b.pool, b.Broker, outbox.RelayConfig{Name: "bench", Logger: b.logger})
	run, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = relay.Run(run) })
	defer running.Wait()
	defer stop()
	if beside != nil {
		if err := beside(relay.Wake); err != nil {
			return err
		}
	}
	for {
		relay.Wake()
		var left bool
		if err := b.pool.QueryRow(ctx, "select exists (select from outbox)").Scan(&left); err != nil || !left {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// arrived reads the events numbered from first to below end and checks that each
// comes once and after those that its writer has written before.
func arrived(ctx context.Context, reader broker.Reader, first, end int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	seen, last := make(map[int]bool, end-first), make(map[string]int)
	for len(seen) < end-first {
		batch, err := reader.Next(ctx, broker.BatchMessagesMax)
		if err != nil {
			return fmt.Errorf("%d of %d events have arrived: %w", len(seen), end-first, err)
		}
		for i := range batch {
			e := &batch[i].Event
			payload, err := noted.Payload(e)
			if err != nil {
				return err
			}
			before, known := last[e.Key()]
			if seen[payload.Number] || payload.Number < first || payload.Number >= end || known && before > payload.Number {
				return fmt.Errorf("event %d of %s came after %d, which is twice or out of order", payload.Number, e.Key(), before)
			}
			seen[payload.Number], last[e.Key()] = true, payload.Number
		}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
)

// latencyRate is how many events are sent in a second.
const latencyRate = 1000

// latencyBench measures how long an event takes from the moment when it should be
// sent until a reader has it, at a fixed rate: through the outbox, from before the
// transaction begins, and published directly through a committer, as gateways do.
// The figures without a prefix are of the outbox.
func latencyBench(ctx context.Context, options options) (Report, error) {
	b, report, err := startBus(ctx, options)
	if err != nil {
		return report, err
	}
	defer b.stop()
	report.Load["events_per_second"] = latencyRate
	if err := b.Ensure(ctx, noted.Topic()); err != nil {
		return report, err
	}
	if err := b.renew(ctx, nil, "create table business (id bigint generated always as identity primary key, note text not null)"); err != nil {
		return report, err
	}
	posts := &post{arrivals: make(map[string]chan struct{})}
	reader, err := b.Tail(ctx, noted.Topic())
	if err != nil {
		return report, err
	}
	run, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { posts.deliver(run, reader) })
	relay := outbox.NewRelay(b.pool, b.Broker, outbox.RelayConfig{Name: "bench", Logger: b.logger})
	running.Go(func() { _ = relay.Run(run) })
	committer := broker.NewCommitter(b.Broker, 0)
	defer func() {
		committer.Close()
		stop()
		running.Wait()
		reader.Close()
	}()
	direct := func(ctx context.Context, m broker.Message) error {
		_, err := committer.Publish(ctx, m)
		return err
	}
	through := func(ctx context.Context, m broker.Message) error {
		err := postgres.InTx(ctx, b.pool, func(tx pgx.Tx) error {
			var batch pgx.Batch
			batch.Queue("insert into business (note) values ($1)", notes)
			if err := outbox.Queue(&batch, m); err != nil {
				return err
			}
			return tx.SendBatch(ctx, &batch).Close()
		})
		relay.Wake()
		return err
	}
	if _, _, err := openLoop(ctx, latencyRate/4, time.Second, posts.sent(through)); err != nil { // warms up
		return report, err
	}
	for _, way := range []struct {
		name string
		send func(ctx context.Context, m broker.Message) error
	}{{"outbox", through}, {"direct", direct}} {
		options.say("%s: %d per second", way.name, latencyRate)
		one := Run{Name: way.name, Load: map[string]any{"per_second": latencyRate}}
		var took []time.Duration
		err := b.measured(ctx, &one, "event", func() (int, error) {
			all, late, err := openLoop(ctx, latencyRate, options.duration, posts.sent(way.send))
			if late > 0 {
				err = errors.Join(err, fmt.Errorf("%d events were not sent: %d per second is too much", late, latencyRate))
			}
			took = all
			return len(all), err
		})
		if err != nil {
			return report, err
		}
		one.add("p50_ms", quantile(took, 0.50), "ms")
		one.add("p99_ms", quantile(took, 0.99), "ms")
		report.Runs = append(report.Runs, one)
	}
	head := report.Runs[0]
	for _, figure := range head.Order {
		report.add(figure, head.Figures[figure].Value, head.Figures[figure].Unit)
	}
	return report, nil
}

// post tells senders when their events have arrived.
type post struct {
	mu       sync.Mutex
	arrivals map[string]chan struct{} // by event id
}

// sent returns what sends one event and waits until a reader has it.
func (p *post) sent(send func(ctx context.Context, m broker.Message) error) func(ctx context.Context) (time.Duration, error) {
	n := 0
	var mu sync.Mutex
	return func(ctx context.Context) (time.Duration, error) {
		mu.Lock()
		n++
		m, err := message(n)
		mu.Unlock()
		if err != nil {
			return 0, err
		}
		began, arrival := time.Now(), make(chan struct{})
		p.mu.Lock()
		p.arrivals[m.Event.ID] = arrival
		p.mu.Unlock()
		if err := send(ctx, m); err != nil {
			return 0, err
		}
		select {
		case <-arrival:
			return time.Since(began), nil
		case <-time.After(time.Minute):
			return 0, fmt.Errorf("event %s has not arrived after a minute", m.Event.ID)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (p *post) deliver(ctx context.Context, reader broker.Reader) {
	for {
		batch, err := reader.Next(ctx, broker.BatchMessagesMax)
		if err != nil {
			return // those who wait say so in the end
		}
		p.mu.Lock()
		for i := range batch {
			if arrival, ok := p.arrivals[batch[i].Event.ID]; ok {
				close(arrival)
				delete(p.arrivals, batch[i].Event.ID)
			}
		}
		p.mu.Unlock()
	}
}

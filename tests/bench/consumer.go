package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
)

// commandsPerSecond sizes the backlog of the benchmark consumer.
const commandsPerSecond = 6000

// consumerBench measures a participant that clears a backlog of commands: each
// writes one row, has its entry in the inbox, and is answered. The figures without
// a prefix are of handlers that take what arrives together.
func consumerBench(ctx context.Context, options options) (Report, error) {
	b, report, err := startBus(ctx, options)
	if err != nil {
		return report, err
	}
	defer b.stop()
	for _, variant := range []struct {
		name  string
		feed  consumer.FeedConfig
		share int // of the backlog
	}{
		{"together", consumer.FeedConfig{BatchMax: 256, Workers: 2}, 1},
		{"batched", consumer.FeedConfig{BatchMax: 256, Workers: 2}, 2},
		{"single", consumer.FeedConfig{BatchMax: 1, Workers: busPartitions}, 10},
	} {
		run := Run{Name: variant.name, Load: map[string]any{"batch_max": variant.feed.BatchMax, "workers": variant.feed.Workers}}
		if err := b.renew(ctx, consumer.SessionParams(), "create table note (number integer primary key, text text not null)"); err != nil {
			return report, err
		}
		write := events.NewCommand[note, events.None]("bench." + variant.name + ".write.v1")
		if err := b.Ensure(ctx, write.Topic(), events.Replies); err != nil {
			return report, err
		}
		backlog := int(commandsPerSecond*options.duration.Seconds()) / variant.share
		options.say("%s: %d commands", variant.name, backlog)
		if err := b.command(ctx, write, backlog); err != nil {
			return report, err
		}
		var handled atomic.Int64
		handler := writeOne(write, &handled)
		if variant.name == "together" {
			handler = writeAll(write, &handled)
		}
		if err := b.measured(ctx, &run, "command", func() (int, error) {
			return backlog, b.obey(ctx, handler, variant.feed, &handled, backlog)
		}); err != nil {
			return report, err
		}
		report.Runs = append(report.Runs, run)
		if variant.name == "together" {
			for _, figure := range run.Order {
				report.add(figure, run.Figures[figure].Value, run.Figures[figure].Unit)
			}
		}
	}
	return report, nil
}

func writeOne(write events.Command[note, events.None], handled *atomic.Int64) consumer.Handler {
	return consumer.Handle(write, func(ctx context.Context, tx pgx.Tx, q note) (events.None, error) {
		handled.Add(1)
		_, err := tx.Exec(ctx, "insert into note (number, text) values ($1, $2)", q.Number, q.Text)
		return events.None{}, err
	})
}

func writeAll(write events.Command[note, events.None], handled *atomic.Int64) consumer.Handler {
	return consumer.HandleAll(write, func(ctx context.Context, tx pgx.Tx, items []consumer.Item[note, events.None]) error {
		handled.Add(int64(len(items)))
		numbers, texts := make([]int32, len(items)), make([]string, len(items))
		for i := range items {
			numbers[i], texts[i] = int32(items[i].Request.Number), items[i].Request.Text
		}
		_, err := tx.Exec(ctx, "insert into note (number, text) select * from unnest($1::integer[], $2::text[])", numbers, texts)
		return err
	})
}

// command publishes that many commands.
func (b *bus) command(ctx context.Context, write events.Command[note, events.None], n int) error {
	const together = 500
	for first := 0; first < n; first += together {
		messages := make([]broker.Message, min(n-first, together))
		for i := range messages {
			id := events.NewID()
			e, err := write.New(id, "/bench", note{Number: first + i, Text: notes}, time.Now())
			if err != nil {
				return err
			}
			e.CorrelationID, e.PartitionKey, e.ReplyTo = id, strconv.Itoa((first+i)%keysMax), string(events.Replies)
			messages[i] = broker.Message{Topic: write.Topic(), PublishID: id, Event: e}
		}
		for _, receipt := range b.PublishBatch(ctx, messages) {
			if receipt.Err != nil {
				return receipt.Err
			}
		}
	}
	return nil
}

// obey runs a participant until it has handled that many commands, and checks that
// each has left its row.
func (b *bus) obey(ctx context.Context, handler consumer.Handler, config consumer.FeedConfig, handled *atomic.Int64, n int) error {
	replies := broker.NewDispatcher(b.Broker, broker.DispatcherConfig{Name: "bench", Logger: b.logger})
	commands, err := consumer.NewCommands(b.pool, consumer.CommandsConfig{Name: "bench", Replies: replies, Logger: b.logger}, handler)
	if err != nil {
		return err
	}
	config.Name, config.Topics, config.Logger = "bench", commands.Topics(), b.logger
	feed, err := consumer.NewFeed(b.pool, b.Broker, commands, config)
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = feed.Run(run) })
	running.Go(func() { _ = replies.Run(run) })
	for limit := time.Now().Add(5 * time.Minute); int(handled.Load()) < n && time.Now().Before(limit) && ctx.Err() == nil; {
		time.Sleep(time.Millisecond)
	}
	stop()
	running.Wait() // the last batch commits
	var rows int
	if err := b.pool.QueryRow(ctx, "select count(*) from note").Scan(&rows); err != nil {
		return err
	}
	if rows != n {
		return fmt.Errorf("%d rows for %d commands", rows, n)
	}
	return nil
}

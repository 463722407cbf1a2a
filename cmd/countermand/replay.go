package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/deadletter"
)

// replayFlags are those of replay.
type replayFlags struct {
	request       admin.ReplayRequest
	since, until  string
	partition     int
	from, through uint64
	expect        int
	timeMax       time.Duration
	output        string
}

func replayCommand() *cobra.Command {
	client := new(adminClient)
	var f replayFlags
	cmd := &cobra.Command{
		Use: "replay", Short: "Hand a range of a topic to one consumer once more, or list the consumers",
		Long: `Replay reads a range of a topic and hands its messages to one consumer once more,
those of one partition key in order; other consumers see nothing of it. The range is
a time, or positions of one partition. Without --consumer it lists the consumers
that have run.

What the consumer's inbox remembers has no effect again, so a replay mends what was
lost and repeats nothing. With --again the effect of what was handled is made a
second time: after its handler was mended, say. Nobody is answered a second time.

Each message waits beside the dead letters until it is handled, and is one when it
fails: see countermand dlq list.`,
		Example: `  countermand replay
  countermand replay --consumer order-customers --topic shop.order.events --since 2h --reason 'restored from backup' --dry-run
  countermand replay --consumer inventory --topic shop.inventory.commands --partition 3 --from 120 --through 140 --reason 'ticket 4711'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.request.Consumer == "" {
				return listConsumers(cmd, client, f.request.Service, f.output)
			}
			return replay(cmd, client, &f)
		},
	}
	client.flag(cmd, "a dev process, an engine or a service")
	flags := cmd.Flags()
	flags.StringVar(&f.request.Service, "service", "", "the service of the consumer, such as inventory")
	flags.StringVar(&f.request.Consumer, "consumer", "", "who is to handle the messages")
	flags.StringVar(&f.request.Topic, "topic", "", "where they are")
	flags.StringVar(&f.since, "since", "", "messages that were stored since: a time, or an age such as 2h")
	flags.StringVar(&f.until, "until", "", "messages that were stored before: a time, or an age; now unless it is given")
	flags.IntVar(&f.partition, "partition", -1, "instead of --since: this partition, with --from and --through")
	flags.Uint64Var(&f.from, "from", 0, "the first position")
	flags.Uint64Var(&f.through, "through", 0, "the last position; --from unless it is given")
	flags.StringSliceVar(&f.request.IDs, "id", nil, "only events of these ids, by commas")
	flags.StringVar(&f.request.EventType, "type", "", "only events of this type")
	flags.StringVar(&f.request.Key, "key", "", "only messages of this partition key")
	flags.StringVar(&f.request.CorrelationID, "saga", "", "only messages of this saga")
	flags.BoolVar(&f.request.Again, "again", false, "make effects a second time that the inbox knows to have been made")
	flags.BoolVar(&f.request.Force, "force", false, "also what was replayed three times")
	flags.BoolVar(&f.request.DryRun, "dry-run", false, "show what would become of each, and do nothing")
	flags.IntVar(&f.expect, "expect", -1, "how many messages are selected; asked for when it is not given")
	flags.Float64Var(&f.request.Rate, "rate", 50, "how many messages are replayed per second, at most 1000")
	flags.DurationVar(&f.timeMax, "for", 0, "stop after this long, whatever is left")
	signFlags(cmd, &f.request.By, &f.request.Reason)
	outputFlag(cmd, &f.output)
	return cmd
}

func listConsumers(cmd *cobra.Command, client *adminClient, service, output string) error {
	path := "/admin/v1/consumers"
	if service != "" {
		path += "?service=" + url.QueryEscape(service)
	}
	var body admin.Consumers
	if err := client.get(cmd.Context(), path, &body); err != nil {
		return err
	}
	if output != "table" {
		return printAll(cmd.OutOrStdout(), body.Consumers, output)
	}
	table := columns(cmd.OutOrStdout())
	fmt.Fprintln(table, "SERVICE\tCONSUMER\tTOPIC\tREMEMBERS")
	for _, c := range body.Consumers {
		remembers := map[string]string{"inbox": "by its inbox", "own": "by itself", "none": "nothing: needs --again"}[string(c.Memory)]
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", c.Service, c.Consumer, c.Topic, remembers)
	}
	return table.Flush()
}

// complete makes the range of the flags.
func (f *replayFlags) complete(now time.Time) (err error) {
	r := &f.request
	switch {
	case r.Topic == "":
		return failure{wire.ExitUsage, errors.New("--topic is missing"), "see the topics of the consumer with: countermand replay"}
	case f.partition < 0 && (f.from > 0 || f.through > 0), f.partition >= 0 && f.from == 0:
		return failure{wire.ExitUsage, errors.New("--partition and --from belong together"), "see where a message stood with dlq show, or give --since"}
	case f.partition < 0 && f.since == "", f.partition >= 0 && (f.since != "" || f.until != ""):
		return failure{wire.ExitUsage, errors.New("give either --since or --partition with --from"), "for example --since 2h"}
	case f.partition >= 0:
		r.Positions = &deadletter.Positions{Partition: f.partition, From: f.from, Through: max(f.from, f.through)}
		return nil
	}
	if r.Since, err = timeOrAge("since", f.since, now); err != nil {
		return err
	}
	r.Until = now.UTC() // the same for counting and for the order
	if f.until != "" {
		r.Until, err = timeOrAge("until", f.until, now)
	}
	return err
}

func replay(cmd *cobra.Command, client *adminClient, f *replayFlags) error {
	if err := signed(f.request.By, f.request.Reason); err != nil {
		return err
	}
	if err := f.complete(time.Now()); err != nil {
		return err
	}
	f.request.SecondsMax = f.timeMax.Seconds()
	f.request.ExpectedCount = f.expect
	if f.request.DryRun {
		f.request.ExpectedCount = 0
	} else if f.expect < 0 {
		count := f.request
		count.DryRun, count.ExpectedCount = true, 0
		last, err := client.replay(cmd, count, func(deadletter.ReplayItem) error { return nil })
		if err != nil {
			return err
		}
		if f.request.ExpectedCount, err = confirmed(cmd, "replay", "messages", last.Selected, "look at them with --dry-run"); err != nil {
			return err
		}
	}
	var items []deadletter.ReplayItem
	count, err := client.replay(cmd, f.request, func(item deadletter.ReplayItem) error {
		switch f.output {
		case "json":
			items = append(items, item)
			return nil
		case "jsonl":
			return printJSON(cmd.OutOrStdout(), item, f.output)
		}
		return printReplayed(cmd.OutOrStdout(), item)
	})
	if err == nil && f.output == "json" {
		err = printAll(cmd.OutOrStdout(), items, f.output)
	}
	switch {
	case err != nil:
		return err
	case f.request.DryRun:
		fmt.Fprintf(cmd.ErrOrStderr(), "dry run: %d of %d messages would be replayed, %d would be refused\n", count.Done, count.Selected, count.Refused)
		return nil
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d messages are replayed, %d refused, %d are gone; those that wait: countermand dlq list --state redriving\n",
		count.Done, count.Selected, count.Refused, count.NotFound)
	if count.Refused > 0 {
		return failure{exitConflict, fmt.Errorf("%d messages were refused", count.Refused), ""}
	}
	return nil
}

func printReplayed(w io.Writer, item deadletter.ReplayItem) error {
	_, err := fmt.Fprintf(w, "%s  %s  partition %d, position %d  %-9s  %s\n", item.EventID, item.EventType, item.Partition, item.Position,
		item.Outcome, fallback(item.DeadLetter, strings.TrimPrefix(item.Code+", "+item.Message, ", ")))
	return err
}

// replay gives an order and hands each line about a message to each.
func (c *adminClient) replay(cmd *cobra.Command, request admin.ReplayRequest, each func(deadletter.ReplayItem) error) (deadletter.BulkCount, error) {
	var last admin.ReplayLine
	err := c.lines(cmd.Context(), "/admin/v1/consumers:replay", request, func(text []byte) error {
		last = admin.ReplayLine{}
		if err := json.Unmarshal(text, &last); err != nil {
			return fmt.Errorf("answer of the admin API: %w", err)
		}
		if last.Message == nil {
			return nil
		}
		return each(*last.Message)
	})
	switch {
	case err != nil:
		return deadletter.BulkCount{}, err
	case last.Event != "finished" || last.Count == nil:
		return deadletter.BulkCount{}, failure{
			wire.ExitFailed, fmt.Errorf("the replay was interrupted: %s", fallback(last.Detail, "the connection ended")),
			"give it again: what still waits is refused, the rest is replayed",
		}
	}
	return *last.Count, nil
}

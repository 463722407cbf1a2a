package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/outbox/operate"
)

func outboxCommand() *cobra.Command {
	client := new(adminClient)
	cmd := &cobra.Command{
		Use: "outbox", Short: "Look after events on their way to the broker: status, stuck, flush, requeue",
		Long: `Outbox looks after the events that are on their way from a service's database to the
broker, through the admin API of a process that runs the service. A dev process has
the outboxes of all services.`,
	}
	client.flag(cmd, "a dev process, an engine or a service")
	cmd.AddCommand(
		outboxStatusCommand(client), outboxStuckCommand(client), outboxFlushCommand(client), outboxShowCommand(client),
		outboxOrderCommand(client, operate.VerbRequeue, "Give a dead row to the relay again",
			`Requeue gives a row that the broker has refused to the relay again, in its old place:
what is parked behind it follows in order. When it is refused again, they wait again.`),
		outboxOrderCommand(client, operate.VerbDiscard, "Give a dead row up",
			`Discard gives a row up that the broker has refused. What is parked behind it follows
in order. The log keeps the event.`),
	)
	return cmd
}

const serviceUsage = "only the outbox of this service, such as order"

func outboxStatusCommand(client *adminClient) *cobra.Command {
	var (
		query  = url.Values{}
		output string
		lanes  bool
	)
	cmd := &cobra.Command{
		Use: "status", Short: "How much waits, since when, and who sends it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var body admin.Outboxes
			if err := client.get(cmd.Context(), "/admin/v1/outboxes?"+query.Encode(), &body); err != nil {
				return err
			}
			if output != "table" {
				return printAll(cmd.OutOrStdout(), body.Outboxes, output)
			}
			return printOutboxes(cmd.OutOrStdout(), body.Outboxes, lanes)
		},
	}
	queryFlag(cmd, query, "service", serviceUsage)
	cmd.Flags().BoolVar(&lanes, "lanes", false, "show each lane that holds rows or has no relay")
	outputFlag(cmd, &output)
	return cmd
}

func age(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return time.Since(*at).Round(time.Millisecond).String()
}

func printOutboxes(w io.Writer, boxes []operate.Status, lanes bool) error {
	table := columns(w)
	if lanes {
		fmt.Fprintln(table, "SERVICE\tLANE\tWAITING\tOLDEST\tDEAD\tRELAY")
	} else {
		fmt.Fprintln(table, "SERVICE\tWAITING\tOLDEST\tDEAD\tPARKED\tDELAYED\tLANES OWNED\tFAILURE")
	}
	for _, box := range boxes {
		owned := 0
		for _, lane := range box.Lanes {
			relay := "nobody"
			if lane.Owner != nil {
				owned++
				relay = fmt.Sprintf("%s, backend %d", lane.Owner.Application, lane.Owner.PID)
			}
			if lanes && (lane.Waiting > 0 || lane.Dead > 0 || lane.Owner == nil) {
				fmt.Fprintf(table, "%s\t%d\t%d\t%s\t%d\t%s\n", box.Service, lane.Lane, lane.Waiting, age(lane.Oldest), lane.Dead, relay)
			}
		}
		if !lanes {
			fmt.Fprintf(table, "%s\t%d\t%s\t%d\t%d\t%d\t%d of %d\t%s\n", box.Service, box.Waiting, age(box.Oldest), box.Dead, box.Parked, box.Delayed,
				owned, len(box.Lanes), fallback(oneLine(box.Failure), "-"))
		}
	}
	return table.Flush()
}

func outboxStuckCommand(client *adminClient) *cobra.Command {
	var (
		query  = url.Values{}
		output string
		older  time.Duration
		limit  int
	)
	cmd := &cobra.Command{
		Use: "stuck", Short: "Rows that are not published, and why", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query.Set("older", strconv.FormatFloat(older.Seconds(), 'f', -1, 64))
			query.Set("limit", strconv.Itoa(limit))
			var body admin.OutboxRows
			if err := client.get(cmd.Context(), "/admin/v1/outboxes:stuck?"+query.Encode(), &body); err != nil {
				return err
			}
			if output != "table" {
				return printAll(cmd.OutOrStdout(), body.Rows, output)
			}
			table := columns(cmd.OutOrStdout())
			fmt.Fprintln(table, "ID\tSTATE\tTYPE\tKEY\tAGE\tWHY\tERROR")
			for _, r := range body.Rows {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.State, r.EventType, r.Key, time.Since(r.CreatedAt).Round(time.Second), r.Why, oneLine(r.Error))
			}
			return table.Flush()
		},
	}
	queryFlag(cmd, query, "service", serviceUsage)
	cmd.Flags().DurationVar(&older, "older", 5*time.Second, "only rows that were written longer ago")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most this many of each outbox, at most 500")
	outputFlag(cmd, &output)
	return cmd
}

func outboxFlushCommand(client *adminClient) *cobra.Command {
	var (
		query  = url.Values{}
		output string
		wait   time.Duration
	)
	cmd := &cobra.Command{
		Use: "flush", Short: "Wake the relays and wait until what is there now is sent", Args: cobra.NoArgs,
		Long: `Flush wakes the relays of the process and waits until the rows that are there now are
sent. What is dead, parked or delayed is not waited for. It fails when some are left.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query.Set("wait", strconv.FormatFloat(wait.Seconds(), 'f', -1, 64))
			var body admin.OutboxFlushed
			if err := client.call(cmd.Context(), http.MethodPost, "/admin/v1/outboxes:flush?"+query.Encode(), "", nil, &body); err != nil {
				return err
			}
			left, why := 0, ""
			for _, box := range body.Outboxes {
				left += box.Left
				why = fallback(why, box.Failure)
			}
			if output != "table" {
				if err := printAll(cmd.OutOrStdout(), body.Outboxes, output); err != nil {
					return err
				}
			} else {
				for _, box := range body.Outboxes {
					fmt.Fprintf(cmd.OutOrStdout(), "%s  %d left\n", box.Service, box.Left)
				}
			}
			if left > 0 {
				return failure{wire.ExitFailed, errors.New("some rows are not sent: " + fallback(why, "the time is up")), "see why with: countermand outbox stuck --older 0s"}
			}
			return nil
		},
	}
	queryFlag(cmd, query, "service", serviceUsage)
	cmd.Flags().DurationVar(&wait, "wait", 10*time.Second, "wait this long at most, at most 30s")
	outputFlag(cmd, &output)
	return cmd
}

func outboxRowPath(id string) string { return "/admin/v1/outbox-rows/" + url.PathEscape(id) }

func outboxShowCommand(client *adminClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show a row that is set aside, with its event", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var row operate.Detail
			if err := client.get(cmd.Context(), outboxRowPath(args[0]), &row); err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), row, output)
		},
	}
	outputFlagOf(cmd, &output, "json", "jsonl")
	return cmd
}

func outboxOrderCommand(client *adminClient, verb, short, long string) *cobra.Command {
	var (
		order  admin.OutboxOrder
		output string
		dry    bool
	)
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Long: long, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := signed(order.By, order.Reason); err != nil {
				return err
			}
			path := outboxRowPath(args[0]) + ":" + verb
			if dry {
				path += "?dry_run=true"
			}
			var result admin.OutboxResult
			if err := client.call(cmd.Context(), http.MethodPost, path, "", order, &result); err != nil {
				return err
			}
			if output != "table" {
				return printJSON(cmd.OutOrStdout(), result, output)
			}
			if dry {
				fmt.Fprintln(cmd.OutOrStdout(), "dry run: nothing was done")
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %s, %d follow\n", result.Row.ID, result.Row.EventType, map[string]string{operate.VerbRequeue: "requeued", operate.VerbDiscard: "discarded"}[verb], result.Followers)
			return err
		},
	}
	signFlags(cmd, &order.By, &order.Reason)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show what would be done, and do nothing")
	outputFlag(cmd, &output)
	return cmd
}

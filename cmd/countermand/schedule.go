package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/schedule"
)

func scheduleCommand() *cobra.Command {
	client := new(adminClient)
	cmd := &cobra.Command{
		Use: "schedule", Short: "Start sagas at set times: list, show, create, pause, resume, trigger, backfill, delete",
	}
	client.flag(cmd, "a dev process or an engine")
	cmd.AddCommand(scheduleListCommand(client), scheduleShowCommand(client), scheduleCreateCommand(client),
		scheduleNoteCommand(client, "pause", "Keep a schedule from firing until it is resumed"),
		scheduleNoteCommand(client, "resume", "End a pause; what would have fired meanwhile is not caught up with"),
		scheduleTriggerCommand(client), scheduleBackfillCommand(client), scheduleDeleteCommand(client))
	return cmd
}

func schedulePath(id string, more ...string) string {
	return "/admin/v1/schedules/" + strings.Join(append([]string{url.PathEscape(id)}, more...), "/")
}

func scheduleListCommand(client *adminClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "list", Short: "List schedules by id", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			records := []schedule.Record{} // not nil: an empty list is [] in JSON
			query := url.Values{"limit": {"500"}}
			for {
				var page schedule.List
				if err := client.get(cmd.Context(), "/admin/v1/schedules?"+query.Encode(), &page); err != nil {
					return err
				}
				records = append(records, page.Schedules...)
				if page.Next == "" {
					return printSchedules(cmd.OutOrStdout(), records, output)
				}
				query.Set("cursor", page.Next)
			}
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func printSchedules(w io.Writer, records []schedule.Record, output string) error {
	switch output {
	case "json":
		return printJSON(w, records, output)
	case "jsonl":
		for i := range records {
			if err := printJSON(w, records[i], output); err != nil {
				return err
			}
		}
		return nil
	}
	table := columns(w)
	fmt.Fprintln(table, "ID\tWHEN\tDOES\tNEXT\tSTARTED\tSKIPPED\tMISSED\tNOTE")
	for i := range records {
		r := &records[i]
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", r.ID, when(r.When), r.Do.Command, standing(r),
			r.State.Started, r.State.Skipped, r.State.Missed, r.State.Note)
	}
	return table.Flush()
}

// when says it in one column.
func when(s schedule.Spec) string {
	if s.Cron == "" {
		return "every " + s.Every.String()
	}
	return strings.TrimSpace(s.Cron + " " + s.Zone)
}

// standing is the time of the next firing, or why there is none.
func standing(r *schedule.Record) string {
	switch {
	case r.State.Paused:
		return "paused"
	case r.State.Next.IsZero():
		return "finished"
	default:
		return r.State.Next.Format(time.RFC3339)
	}
}

// shownSchedule is what show tells in JSON.
type shownSchedule struct {
	schedule.Record
	Next    []time.Time       `json:"next"`
	Firings []schedule.Firing `json:"firings"`
}

func scheduleShowCommand(client *adminClient) *cobra.Command {
	var output string
	var next, firings int
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show one schedule with its next and its latest firings", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var shown shownSchedule
			if err := client.get(cmd.Context(), schedulePath(args[0]), &shown.Record); err != nil {
				return err
			}
			var times schedule.NextList
			if err := client.get(cmd.Context(), schedulePath(args[0], "next?n=")+strconv.Itoa(next), &times); err != nil {
				return err
			}
			var list schedule.FiringList
			if err := client.get(cmd.Context(), schedulePath(args[0], "firings?limit=")+strconv.Itoa(firings), &list); err != nil {
				return err
			}
			shown.Next, shown.Firings = times.Next, list.Firings
			if output != "table" {
				return printJSON(cmd.OutOrStdout(), shown, output)
			}
			return printSchedule(cmd.OutOrStdout(), shown)
		},
	}
	cmd.Flags().IntVar(&next, "next", 5, "how many of the next firings")
	cmd.Flags().IntVar(&firings, "firings", 5, "how many of the latest firings")
	outputFlag(cmd, &output)
	return cmd
}

func printSchedule(w io.Writer, s shownSchedule) error {
	table := columns(w)
	fmt.Fprintf(table, "%s\trevision %d\n", s.ID, s.Revision)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(table, "%s\t%s\n", name, value)
		}
	}
	line("when", when(s.When))
	if s.When.Jitter > 0 {
		line("jitter", s.When.Jitter.String())
	}
	line("does", s.Do.Command)
	line("data", string(s.Do.Data))
	line("overlap", string(s.Overlap))
	line("catch up", fmt.Sprintf("%s within %s", s.CatchUp.Policy, s.CatchUp.Window))
	if s.Limit > 0 {
		line("limit", fmt.Sprintf("%d of %d fired", s.State.Scheduled, s.Limit))
	}
	line("counted", fmt.Sprintf("%d started, %d skipped, %d missed", s.State.Started, s.State.Skipped, s.State.Missed))
	for _, b := range s.State.Backfills {
		line("backfill", fmt.Sprintf("%s to %s", b.From.Format(time.RFC3339), b.To.Format(time.RFC3339)))
	}
	line("note", s.State.Note)
	if s.State.Paused || s.State.Next.IsZero() {
		line("next", standing(&s.Record))
	} else {
		for _, at := range s.Next { // in the schedule's own zone
			line("next", at.Format(time.RFC3339))
		}
	}
	for _, f := range s.Firings {
		text := fmt.Sprintf("%s %s", f.At.Format(time.RFC3339), f.Outcome)
		if f.Kind != schedule.Scheduled {
			text += ", " + string(f.Kind)
		}
		if f.Count > 1 {
			text += fmt.Sprintf(" (%d in a row)", f.Count)
		}
		if f.Outcome == schedule.Started {
			text += "  " + f.ID
		}
		line("fired", text)
	}
	return table.Flush()
}

func scheduleCreateCommand(client *adminClient) *cobra.Command {
	var (
		s                        schedule.Schedule
		every, jitter, window    time.Duration
		start, end, data         string
		overlap, catchUp, output string
		replace, dryRun          bool
	)
	cmd := &cobra.Command{
		Use:   "create ID",
		Short: "Create a schedule, or replace one",
		Example: `  countermand schedule create nightly-order --cron "30 4 * * MON-FRI" --zone Europe/Berlin \
    --command shop.checkout.request.v1 --data @order.json
  countermand schedule create heartbeat --every 15m --command shop.checkout.request.v1 --data @order.json --limit 10`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s.ID = args[0]
			s.When.Every, s.When.Jitter, s.CatchUp.Window = schedule.Duration(every), schedule.Duration(jitter), schedule.Duration(window)
			s.Overlap, s.CatchUp.Policy = schedule.Overlap(overlap), schedule.CatchUpPolicy(catchUp)
			var err error
			if s.When.Start, err = instant("start", start); err != nil {
				return err
			}
			if s.When.End, err = instant("end", end); err != nil {
				return err
			}
			if s.Do.Data, err = readData(cmd.InOrStdin(), "--data", data); err != nil {
				return err
			}
			if err := s.Validate(); err != nil {
				return failure{wire.ExitUsage, err, ""}
			}
			if dryRun {
				next, err := s.When.Next(time.Now(), 5)
				if err != nil {
					return failure{wire.ExitUsage, err, ""}
				}
				return printJSON(cmd.OutOrStdout(), schedule.NextList{Next: next}, "json")
			}
			condition := "If-None-Match: *"
			if replace {
				condition = "If-Match: *"
			}
			return client.change(cmd, http.MethodPut, schedulePath(s.ID), condition, s, output)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.When.Cron, "cron", "", "cron expression: minute, hour, day of month, month, day of week")
	flags.StringVar(&s.When.Zone, "zone", "", "time zone of --cron, such as Europe/Berlin (default UTC)")
	flags.DurationVar(&every, "every", 0, "interval, instead of --cron")
	flags.DurationVar(&jitter, "jitter", 0, "put each firing off by up to this")
	flags.StringVar(&start, "start", "", "no firing before this time")
	flags.StringVar(&end, "end", "", "no firing at this time or later")
	flags.Int64Var(&s.Limit, "limit", 0, "fire this often in all (default without a limit)")
	flags.StringVar(&s.Do.Command, "command", "", "type of the command to send, such as shop.checkout.request.v1")
	flags.StringVar(&data, "data", "", "its request as JSON, @FILE to read it from a file, or @- from stdin")
	flags.StringVar(&s.Do.TimeField, "time-field", "", "field of the request to set to the time of the firing")
	flags.StringVar(&overlap, "overlap", "", "while the saga before runs: skip, buffer_one or allow_all (default skip)")
	flags.StringVar(&catchUp, "catch-up", "", "firings that were missed: latest, all or skip (default latest)")
	flags.DurationVar(&window, "window", 0, "how late a missed firing may be (default 24h)")
	flags.BoolVar(&replace, "replace", false, "replace the schedule of this id")
	flags.BoolVar(&dryRun, "dry-run", false, "check it, print its next firings and create nothing")
	outputFlag(cmd, &output)
	return cmd
}

// instant parses a flag.
func instant(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, failure{wire.ExitUsage, fmt.Errorf("--%s %q is no time", name, text), "use the form 2026-11-20T04:30:00+01:00, or …Z for UTC"}
	}
	return at, nil
}

func scheduleNoteCommand(client *adminClient, verb, short string) *cobra.Command {
	var note, output string
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.change(cmd, http.MethodPost, schedulePath(args[0], verb), "", map[string]string{"note": note}, output)
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "why, for those who come after you")
	outputFlag(cmd, &output)
	return cmd
}

func scheduleTriggerCommand(client *adminClient) *cobra.Command {
	var force bool
	var output string
	cmd := &cobra.Command{
		Use: "trigger ID", Short: "Fire a schedule now, paused or not, and print the id of the saga", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var firing schedule.Firing
			err := client.call(cmd.Context(), http.MethodPost, schedulePath(args[0], "trigger"), "", map[string]bool{"force": force}, &firing)
			if err != nil {
				return err
			}
			if output != "table" {
				return printJSON(cmd.OutOrStdout(), firing, output)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), firing.ID)
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also while the saga of an earlier firing runs")
	outputFlag(cmd, &output)
	return cmd
}

func scheduleBackfillCommand(client *adminClient) *cobra.Command {
	var from, to, output string
	var b schedule.Backfill
	cmd := &cobra.Command{
		Use: "backfill ID", Short: "Fire for a time range in the past, leaving out what has fired", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if from == "" || to == "" {
				return failure{wire.ExitUsage, errors.New("a backfill needs a range"), "add --from and --to, such as --from 2026-11-01T00:00:00Z"}
			}
			var err error
			if b.From, err = instant("from", from); err != nil {
				return err
			}
			if b.To, err = instant("to", to); err != nil {
				return err
			}
			return client.change(cmd, http.MethodPost, schedulePath(args[0], "backfill"), "", b, output)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "begin of the range, included")
	cmd.Flags().StringVar(&to, "to", "", "end of the range, not included")
	cmd.Flags().BoolVar(&b.OneByOne, "one-by-one", false, "start each saga when the one before has ended")
	cmd.Flags().BoolVar(&b.Again, "again", false, "also what has fired already")
	outputFlag(cmd, &output)
	return cmd
}

func scheduleDeleteCommand(client *adminClient) *cobra.Command {
	return &cobra.Command{
		Use: "delete ID", Short: "Delete a schedule; sagas that it has started go on", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.call(cmd.Context(), http.MethodDelete, schedulePath(args[0]), "If-Match: *", nil, nil)
		},
	}
}

// change asks for a change of a schedule and prints what became of it.
func (c *adminClient) change(cmd *cobra.Command, method, path, condition string, body any, output string) error {
	var record schedule.Record
	if err := c.call(cmd.Context(), method, path, condition, body, &record); err != nil {
		return err
	}
	if output == "table" {
		return printSchedules(cmd.OutOrStdout(), []schedule.Record{record}, output)
	}
	return printJSON(cmd.OutOrStdout(), record, output)
}

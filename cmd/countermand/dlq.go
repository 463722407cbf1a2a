package main

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/deadletter"
)

func dlqCommand() *cobra.Command {
	client := new(adminClient)
	cmd := &cobra.Command{
		Use: "dlq", Short: "Work with dead letters: list, show, edit, redrive, discard",
		Long: `Dlq works with dead letters, the events that a consumer could not handle, through
the admin API of a process that runs the consumer. A dev process has those of all
services. Every verb can be tried with --dry-run, and is kept in the letter's log
with --by and --reason.`,
	}
	client.flag(cmd, "a dev process, an engine or a service")
	cmd.AddCommand(
		dlqListCommand(client), dlqShowCommand(client), dlqEditCommand(client),
		dlqVerbCommand(client, deadletter.VerbRedrive, "Have a dead letter handled again, or all that the flags select",
			`Redrive hands dead letters to their consumer again: the one that is named, or all
that the flags select. The consumer handles each in its own process, in one
transaction with removing it; the broker and other consumers see nothing of it. What
is parked behind a letter follows in order. A letter that was redriven three times
and died again is refused: mend the cause, or give --force.`,
			`  countermand dlq redrive inventory.17 --reason 'the bug is fixed'
  countermand dlq redrive --consumer inventory --type shop.inventory.reserve.v1 --died-after 2h --reason 'ticket 4711' --dry-run`),
		dlqVerbCommand(client, deadletter.VerbDiscard, "Give a dead letter up, or all that the flags select",
			`Discard gives dead letters up: the one that is named, or all that the flags select.
What is parked behind a letter is handled then. The log keeps the event.`,
			`  countermand dlq discard payment.3 --reason 'a test message'`),
	)
	return cmd
}

// letterFlags select dead letters.
type letterFlags struct {
	service, diedAfter, diedBefore, state, reason string
	filter                                        deadletter.Filter
}

func (f *letterFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.service, "service", "", "only letters of this service, such as inventory")
	flags.StringVar(&f.state, "state", "", "only this state: dead, parked, redriving")
	complete(cmd, "state", "dead", "parked", "redriving")
	flags.StringVar(&f.filter.Consumer, "consumer", "", "only letters of this consumer")
	flags.StringVar(&f.filter.Topic, "topic", "", "only letters from this topic")
	flags.StringVar(&f.filter.Key, "key", "", "only letters of this partition key")
	flags.StringVar(&f.filter.EventType, "type", "", "only events of this type")
	flags.StringVar(&f.reason, "why", "", "only letters that died for this: malformed, no_handler, terminal, invalid, stale, failed")
	complete(cmd, "why", "malformed", "no_handler", "terminal", "invalid", "stale", "failed")
	flags.StringVar(&f.filter.Error, "error", "", "only letters whose error has this in it")
	flags.StringVar(&f.filter.CorrelationID, "saga", "", "only letters of this saga")
	flags.StringVar(&f.diedAfter, "died-after", "", "only letters that died since: a time, or an age such as 2h")
	flags.StringVar(&f.diedBefore, "died-before", "", "only letters that died before: a time, or an age")
}

func (f *letterFlags) resolve(now time.Time) (deadletter.Filter, error) {
	filter := f.filter
	filter.State, filter.Reason = deadletter.State(f.state), f.reason
	var err error
	if filter.DiedAfter, err = timeOrAge("died-after", f.diedAfter, now); err != nil {
		return filter, err
	}
	filter.DiedBefore, err = timeOrAge("died-before", f.diedBefore, now)
	return filter, err
}

func letterQuery(service string, f deadletter.Filter) url.Values {
	values := url.Values{}
	for name, value := range map[string]string{
		"service": service, "state": string(f.State), "consumer": f.Consumer, "topic": f.Topic, "key": f.Key, "event_type": f.EventType,
		"reason": f.Reason, "error": f.Error, "correlation_id": f.CorrelationID,
	} {
		if value != "" {
			values.Set(name, value)
		}
	}
	for name, at := range map[string]time.Time{"died_after": f.DiedAfter, "died_before": f.DiedBefore} {
		if !at.IsZero() {
			values.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	return values
}

func dlqListCommand(client *adminClient) *cobra.Command {
	var (
		flags  letterFlags
		output string
		limit  int
		groups bool
	)
	cmd := &cobra.Command{
		Use: "list", Short: "List dead letters, newest first of each service", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := flags.resolve(time.Now())
			if err != nil {
				return err
			}
			query := letterQuery(flags.service, filter)
			if groups {
				var body admin.DeadLetterGroups
				if err := client.get(cmd.Context(), "/admin/v1/dead-letters:groups?"+query.Encode(), &body); err != nil {
					return err
				}
				return printGroups(cmd.OutOrStdout(), body.Groups, output)
			}
			letters := []deadletter.Summary{} // not nil: an empty list is [] in JSON
			query.Set("limit", strconv.Itoa(max(min(limit, deadletter.ListMax), 1)))
			for {
				var page admin.DeadLetters
				if err := client.get(cmd.Context(), "/admin/v1/dead-letters?"+query.Encode(), &page); err != nil {
					return err
				}
				letters = append(letters, page.DeadLetters...)
				if page.Next == "" || len(letters) >= limit {
					return printLetters(cmd.OutOrStdout(), letters[:max(min(limit, len(letters)), 0)], output)
				}
				query.Set("cursor", page.Next)
			}
		},
	}
	flags.register(cmd)
	cmd.Flags().IntVar(&limit, "limit", 20, "at most this many")
	cmd.Flags().BoolVar(&groups, "groups", false, "count them by consumer, topic, type and reason")
	outputFlag(cmd, &output)
	return cmd
}

func printLetters(w io.Writer, letters []deadletter.Summary, output string) error {
	if output != "table" {
		return printAll(w, letters, output)
	}
	table := columns(w)
	fmt.Fprintln(table, "ID\tSTATE\tCONSUMER\tTYPE\tKEY\tREASON\tAGE\tREDRIVES\tERROR")
	for _, l := range letters {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", l.ID, l.State, l.Consumer, l.EventType, l.Key, fallback(l.Reason, "-"),
			time.Since(l.DiedAt).Round(time.Second), l.Redrives, oneLine(l.Error))
	}
	return table.Flush()
}

// oneLine makes a text fit one line of a table.
func oneLine(text string) string {
	const runesMax = 80
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > runesMax {
		return string(runes[:runesMax]) + "…"
	}
	return text
}

func printGroups(w io.Writer, groups []deadletter.Group, output string) error {
	if output != "table" {
		return printAll(w, groups, output)
	}
	table := columns(w)
	fmt.Fprintln(table, "COUNT\tSERVICE\tCONSUMER\tTOPIC\tTYPE\tSTATE\tREASON\tOLDEST")
	for _, g := range groups {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", g.Count, g.Service, g.Consumer, g.Topic, g.EventType, g.State, fallback(g.Reason, "-"),
			time.Since(g.Oldest).Round(time.Second))
	}
	return table.Flush()
}

func letterPath(id string) string { return "/admin/v1/dead-letters/" + url.PathEscape(id) }

func dlqShowCommand(client *adminClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show a dead letter with its event and what was done to it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var l deadletter.Letter
			if err := client.get(cmd.Context(), letterPath(args[0]), &l); err != nil {
				return err
			}
			if output != "table" {
				return printJSON(cmd.OutOrStdout(), l, output)
			}
			return printLetter(cmd.OutOrStdout(), &l)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func printLetter(w io.Writer, l *deadletter.Letter) error {
	table := columns(w)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(table, "%s\t%s\n", name, value)
		}
	}
	row("id", l.ID)
	row("state", string(l.State))
	row("behind", l.Behind)
	row("revision", strconv.FormatInt(l.Revision, 10))
	row("consumer", l.Consumer)
	row("stood at", fmt.Sprintf("%s, partition %d, position %d", l.Topic, l.Partition, l.Position))
	row("event", l.EventType+" "+l.EventID)
	row("key", l.Key)
	if l.HoldsKey {
		row("", "later messages of the key wait for it")
	}
	row("saga", l.CorrelationID)
	row("died", l.DiedAt.Format(time.RFC3339))
	row("reason", l.Reason)
	row("error", l.Error)
	row("attempts", fmt.Sprintf("%d, redriven %d times", l.Attempts, l.Redrives))
	if err := table.Flush(); err != nil {
		return err
	}
	for _, entry := range l.Log {
		fmt.Fprintf(w, "%s  %s by %s  %s\n", entry.At.Format(time.RFC3339), entry.Verb, entry.By, entry.Note)
	}
	if l.Event != nil {
		return printJSON(w, l.Event, "json")
	}
	return printJSON(w, map[string]any{"attributes": l.Attributes, "data_base64": l.Data}, "json")
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/deadletter"
)

func dlqEditCommand(client *adminClient) *cobra.Command {
	var (
		request             admin.DeadLetterOrder
		event, data, output string
		revision            int64
		dry                 bool
	)
	cmd := &cobra.Command{
		Use: "edit ID", Short: "Replace the event of a dead letter, to redrive it then",
		Long: `Edit replaces the event of a dead letter, or with --data only the data of its
event. Without either it opens $VISUAL or $EDITOR on the event. It is refused when the
letter has changed meanwhile. The log keeps the event as it was.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := signed(request.By, request.Reason); err != nil {
				return err
			}
			if event != "" && data != "" {
				return failure{wire.ExitUsage, errors.New("--event and --data are both given"), "keep one"}
			}
			var err error
			if request.Event, err = readData(cmd.InOrStdin(), "--event", event); err != nil {
				return err
			}
			if request.Data, err = readData(cmd.InOrStdin(), "--data", data); err != nil {
				return err
			}
			if revision == 0 {
				var l deadletter.Letter
				if err := client.get(cmd.Context(), letterPath(args[0]), &l); err != nil {
					return err
				}
				revision = l.Revision
				if event == "" && data == "" {
					if l.Event == nil {
						return failure{wire.ExitUsage, errors.New("what came was no event, so there is nothing to edit"), "give a whole event with --event @FILE"}
					}
					if request.Event, err = editState(cmd, l.Event); err != nil {
						return err
					}
				}
			} else if event == "" && data == "" {
				return failure{wire.ExitUsage, errors.New("--revision needs --event or --data"), "leave it out to edit the letter as it is now"}
			}
			return client.letterOrder(cmd, args[0], "edit", fmt.Sprintf(`If-Match: "%d"`, revision), dry, request, output)
		},
	}
	signFlags(cmd, &request.By, &request.Reason)
	flags := cmd.Flags()
	flags.StringVar(&event, "event", "", "the event in the structured JSON of CloudEvents; @FILE reads a file, - stdin")
	flags.StringVar(&data, "data", "", "the data of the event, as JSON; @FILE reads a file, - stdin")
	flags.Int64Var(&revision, "revision", 0, "only if the letter is at this revision, as dlq show has it")
	flags.BoolVar(&dry, "dry-run", false, "show what would become of it, and do nothing")
	outputFlag(cmd, &output)
	return cmd
}

// letterOrder gives an order to one letter and prints what became of it.
func (c *adminClient) letterOrder(cmd *cobra.Command, id, verb, condition string, dry bool, request admin.DeadLetterOrder, output string) error {
	path := letterPath(id) + ":" + verb
	if dry {
		path += "?dry_run=true"
	}
	var result admin.DeadLetterResult
	if err := c.call(cmd.Context(), http.MethodPost, path, condition, request, &result); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if output != "table" {
		return printJSON(out, result, output)
	}
	if dry {
		fmt.Fprintln(out, "dry run: nothing was done")
	}
	l := &result.DeadLetter
	state := string(l.State)
	if verb == deadletter.VerbDiscard {
		state = "discarded"
	}
	_, err := fmt.Fprintf(out, "%s  %s  %s  revision %d\n", l.ID, l.EventType, state, l.Revision)
	return err
}

// letterOrderFlags are those of redrive and discard beside the filter.
type letterOrderFlags struct {
	filter             letterFlags
	by, reason, output string
	expect             int
	rate               float64
	timeMax            time.Duration
	revision           int64
	force, dry, all    bool
}

func dlqVerbCommand(client *adminClient, verb, short, long, example string) *cobra.Command {
	var (
		f    letterOrderFlags
		many []string // flags of an order without an id
	)
	cmd := &cobra.Command{
		Use: verb + " [ID]", Short: short, Long: long, Example: example, Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := signed(f.by, f.reason); err != nil {
				return err
			}
			if len(args) == 0 {
				if f.revision > 0 {
					return failure{wire.ExitUsage, errors.New("--revision is of one letter, and no id is given"), "name the letter, or leave it out"}
				}
				return bulkLetters(cmd, client, verb, f)
			}
			for _, name := range many { // one that is passed over would be trusted
				if cmd.Flags().Changed(name) {
					return failure{wire.ExitUsage, fmt.Errorf("--%s is for an order without an id", name), "keep the id or the flags"}
				}
			}
			condition := ""
			if f.revision > 0 {
				condition = fmt.Sprintf(`If-Match: "%d"`, f.revision)
			}
			return client.letterOrder(cmd, args[0], verb, condition, f.dry, admin.DeadLetterOrder{By: f.by, Reason: f.reason, Force: f.force}, f.output)
		},
	}
	f.filter.register(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "without an id: all letters, with no other flag to select them")
	flags.IntVar(&f.expect, "expect", -1, "without an id: how many letters are selected; asked for when it is not given")
	flags.Float64Var(&f.rate, "rate", 50, "without an id: how many letters are told per second, at most 1000")
	flags.DurationVar(&f.timeMax, "for", 0, "without an id: stop after this long, whatever is left")
	flags.VisitAll(func(flag *pflag.Flag) { many = append(many, flag.Name) })
	signFlags(cmd, &f.by, &f.reason)
	flags.BoolVar(&f.dry, "dry-run", false, "show what would become of each, and do nothing")
	flags.Int64Var(&f.revision, "revision", 0, "only if the letter is at this revision, as dlq show has it")
	if verb == deadletter.VerbRedrive {
		flags.BoolVar(&f.force, "force", false, "also what was redriven too often")
	}
	outputFlag(cmd, &f.output)
	return cmd
}

func bulkLetters(cmd *cobra.Command, client *adminClient, verb string, f letterOrderFlags) error {
	filter, err := f.filter.resolve(time.Now())
	if err != nil {
		return err
	}
	if filter == (deadletter.Filter{}) && f.filter.service == "" && !f.all {
		return failure{wire.ExitUsage, fmt.Errorf("%s needs an id or flags that select letters", verb), "see what there is with: countermand dlq list --groups; give --all to mean all"}
	}
	if verb == deadletter.VerbRedrive && filter.State == "" {
		filter.State = deadletter.Dead // what is parked follows by itself
	}
	request := admin.DeadLetterBulk{
		Verb: verb, By: f.by, Reason: f.reason, Force: f.force, Service: f.filter.service, Filter: filter,
		DryRun: f.dry, Rate: f.rate, SecondsMax: f.timeMax.Seconds(),
	}
	if !f.dry {
		if request.ExpectedCount, err = client.expectedLetters(cmd, f.filter.service, filter, verb, f.expect); err != nil {
			return err
		}
	}
	var (
		last  admin.DeadLetterLine
		items []deadletter.BulkItem
	)
	err = client.lines(cmd.Context(), "/admin/v1/dead-letters:bulk", request, func(text []byte) error {
		last = admin.DeadLetterLine{}
		if err := json.Unmarshal(text, &last); err != nil {
			return fmt.Errorf("answer of the admin API: %w", err)
		}
		switch item := last.DeadLetter; {
		case item == nil:
			return nil
		case f.output == "json":
			items = append(items, *item)
			return nil
		case f.output == "jsonl":
			return printJSON(cmd.OutOrStdout(), item, f.output)
		default:
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %-9s  %s\n", item.ID, item.Outcome, strings.TrimPrefix(item.Code+", "+item.Message, ", "))
			return err
		}
	})
	if err == nil && f.output == "json" {
		err = printAll(cmd.OutOrStdout(), items, f.output)
	}
	switch {
	case err != nil:
		return err
	case last.Event != "finished" || last.Count == nil:
		return failure{wire.ExitFailed, fmt.Errorf("the order was interrupted: %s", fallback(last.Detail, "the connection ended")), "give it again"}
	case f.dry:
		fmt.Fprintf(cmd.ErrOrStderr(), "dry run: %d of %d dead letters would obey, %d would refuse\n", last.Count.Done, last.Count.Selected, last.Count.Refused)
		return nil
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d dead letters obeyed, %d refused, %d are gone\n", last.Count.Done, last.Count.Selected, last.Count.Refused, last.Count.NotFound)
	if last.Count.Refused > 0 {
		return failure{exitConflict, fmt.Errorf("%d dead letters refused", last.Count.Refused), ""}
	}
	return nil
}

// expectedLetters returns how many letters the operator means.
func (c *adminClient) expectedLetters(cmd *cobra.Command, service string, filter deadletter.Filter, verb string, expect int) (int, error) {
	if expect >= 0 {
		return expect, nil
	}
	count, err := c.countLetters(cmd.Context(), service, filter)
	if err != nil {
		return 0, err
	}
	return confirmed(cmd, verb, "dead letters", count, "look at them with dlq list")
}

func (c *adminClient) countLetters(ctx context.Context, service string, filter deadletter.Filter) (count int, err error) {
	var body admin.DeadLetterGroups
	err = c.get(ctx, "/admin/v1/dead-letters:groups?"+letterQuery(service, filter).Encode(), &body)
	for _, g := range body.Groups {
		count += g.Count
	}
	return count, err
}

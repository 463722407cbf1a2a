package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/saga"
)

func sagaCommand() *cobra.Command {
	client := new(adminClient)
	cmd := &cobra.Command{
		Use: "saga", Short: "Look into sagas, and tell them what to do",
		Long: `Saga looks into sagas through the admin API of an engine, and tells them what
to do. Every verb can be tried with --dry-run, and is kept in the saga's history
with --by and --reason.`,
	}
	client.flag(cmd, "a dev process or an engine")
	cmd.AddCommand(
		sagaListCommand(client), sagaGetCommand(client), sagaWatchCommand(client), sagaHistoryCommand(client),
		sagaPreviewCommand(client), sagaExportCommand(client), sagaBulkCommand(client),
	)
	for _, v := range verbs {
		cmd.AddCommand(sagaVerbCommand(client, v))
	}
	return cmd
}

// filterFlags select sagas.
type filterFlags struct {
	status, definition, code, step              string
	attributes                                  map[string]string
	createdAfter, createdBefore, untouchedSince string
}

func (f *filterFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.status, "status", "", "only this status: running, compensating, completed, compensated, stuck, abandoned")
	complete(cmd, "status", "running", "compensating", "completed", "compensated", "stuck", "abandoned")
	flags.StringVar(&f.definition, "definition", "", "only sagas of this definition, such as checkout")
	flags.StringVar(&f.code, "code", "", "only those that failed or are stuck with this code, such as out_of_stock")
	flags.StringVar(&f.step, "step", "", "only those that failed, are stuck or wait at this step")
	flags.StringToStringVar(&f.attributes, "attribute", nil, "only those with this search attribute, NAME=VALUE")
	flags.StringVar(&f.createdAfter, "created-after", "", "only those begun since: a time, or an age such as 2h")
	flags.StringVar(&f.createdBefore, "created-before", "", "only those begun before: a time, or an age")
	flags.StringVar(&f.untouchedSince, "updated-before", "", "only those in which nothing has happened since: a time, or an age")
}

// filter returns what the flags say.
func (f *filterFlags) filter(now time.Time) (admin.BulkFilter, error) {
	out := admin.BulkFilter{Status: saga.Status(f.status), Definition: f.definition, Code: f.code, Step: f.step, Attributes: f.attributes}
	for flag, at := range map[string]struct {
		text string
		into *time.Time
	}{
		"created-after": {f.createdAfter, &out.CreatedAfter}, "created-before": {f.createdBefore, &out.CreatedBefore},
		"updated-before": {f.untouchedSince, &out.UpdatedBefore},
	} {
		var err error
		if *at.into, err = timeOrAge(flag, at.text, now); err != nil {
			return out, err
		}
	}
	return out, nil
}

// timeOrAge parses a flag; empty is the zero time.
func timeOrAge(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if age, err := time.ParseDuration(text); err == nil {
		return now.Add(-age).UTC().Truncate(time.Second), nil
	}
	parsed, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return parsed, failure{wire.ExitUsage, fmt.Errorf("--%s %q is no time", flag, text), "use an age such as 90m, or a time such as 2026-11-22T08:30:00Z"}
	}
	return parsed.UTC(), nil
}

// query returns a filter as the list takes it.
func query(f admin.BulkFilter) url.Values {
	values := make(url.Values)
	set := func(name, value string) {
		if value != "" {
			values.Set(name, value)
		}
	}
	set("status", string(f.Status))
	set("definition", f.Definition)
	set("code", f.Code)
	set("step", f.Step)
	for name, value := range f.Attributes {
		values.Set("attribute."+name, value)
	}
	for name, at := range map[string]time.Time{"created_after": f.CreatedAfter, "created_before": f.CreatedBefore, "updated_before": f.UpdatedBefore} {
		if !at.IsZero() {
			values.Set(name, at.Format(time.RFC3339))
		}
	}
	return values
}

func sagaListCommand(client *adminClient) *cobra.Command {
	var (
		flags  filterFlags
		output string
		limit  int
		follow bool
	)
	cmd := &cobra.Command{
		Use: "list", Short: "List sagas, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list := func() ([]saga.Summary, error) {
				filter, err := flags.filter(time.Now()) // anew each time: an age moves on
				if err != nil {
					return nil, err
				}
				return client.list(cmd.Context(), filter, limit)
			}
			if follow {
				if output == "json" {
					return failure{wire.ExitUsage, errors.New("a list that is followed has no end, and so is no JSON array"), "use -o jsonl"}
				}
				return watchList(cmd.Context(), cmd.OutOrStdout(), list, output)
			}
			sagas, err := list()
			if err != nil {
				return err
			}
			return printList(cmd.OutOrStdout(), sagas, output)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVarP(&follow, "watch", "w", false, "follow the list until interrupted; on a terminal it is drawn in place")
	cmd.Flags().IntVar(&limit, "limit", 20, "at most this many")
	outputFlag(cmd, &output)
	return cmd
}

// list returns that many sagas, newest first.
func (c *adminClient) list(ctx context.Context, filter admin.BulkFilter, limit int) ([]saga.Summary, error) {
	values := query(filter)
	values.Set("limit", strconv.Itoa(min(limit, 500)))
	var sagas []saga.Summary
	for len(sagas) < limit {
		var page admin.List
		if err := c.get(ctx, "/admin/v1/sagas?"+values.Encode(), &page); err != nil {
			return nil, err
		}
		sagas = append(sagas, page.Sagas...)
		if page.Next == "" {
			break
		}
		values.Set("cursor", page.Next)
	}
	return sagas[:max(min(limit, len(sagas)), 0)], nil
}

func printList(w io.Writer, sagas []saga.Summary, output string) error {
	if output != "table" {
		return printAll(w, sagas, output)
	}
	table := columns(w)
	fmt.Fprintln(table, "ID\tSAGA\tSTATUS\tWAITS FOR\tAGE\tWHY")
	for _, in := range sagas {
		reason := strings.TrimPrefix(in.Step+": "+string(in.Code), ": ")
		fmt.Fprintf(table, "%s\t%s@%d\t%s\t%s\t%s\t%s\n", in.ID, in.Name, in.Version, in.Status, strings.Join(in.Waits, ", "),
			time.Since(in.CreatedAt).Round(time.Second), reason)
	}
	return table.Flush()
}

func sagaGetCommand(client *adminClient) *cobra.Command {
	var (
		output string
		follow bool
	)
	cmd := &cobra.Command{
		Use: "get ID", Short: "Show one saga with its steps", Args: cobra.ExactArgs(1), ValidArgsFunction: client.completeID(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if follow {
				return watch(cmd, client, args[0], output)
			}
			in, err := client.saga(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return client.show(cmd.Context(), cmd.OutOrStdout(), in, output)
		},
	}
	cmd.Flags().BoolVarP(&follow, "watch", "w", false, "follow it until it ends, as saga watch does")
	outputFlag(cmd, &output)
	return cmd
}

// show prints a saga.
func (c *adminClient) show(ctx context.Context, w io.Writer, in admin.Saga, output string) error {
	if output != "table" {
		return printJSON(w, in, output)
	}
	graph, err := c.graph(ctx, in.Name, in.Version)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, tree(in, graph))
	return err
}

func sagaHistoryCommand(client *adminClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "history ID", Short: "Show every transition of a saga, after checking that none was changed", Args: cobra.ExactArgs(1),
		ValidArgsFunction: client.completeID(),
		RunE: func(cmd *cobra.Command, args []string) error {
			var history admin.History
			if err := client.get(cmd.Context(), "/admin/v1/sagas/"+url.PathEscape(args[0])+"/history", &history); err != nil {
				return err
			}
			if output != "table" {
				return printAll(cmd.OutOrStdout(), history.Entries, output)
			}
			return printHistory(cmd.OutOrStdout(), history.Entries)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func printHistory(w io.Writer, entries []saga.Entry) error {
	table := columns(w)
	fmt.Fprintln(table, "SEQ\tAT\tCAUSE\tSTATUS\tSTEPS")
	for i := range entries {
		e := &entries[i]
		cause := e.Cause.Kind
		if o := e.Cause.Order; o != nil {
			cause = fmt.Sprintf("%s by %s: %s", o.Verb, fallback(o.By, "nobody"), o.Reason)
		}
		var changes []string
		for _, c := range e.Changes {
			text := c.Step + " " + string(c.Status)
			if c.Attempt > 1 {
				text += fmt.Sprintf(" (attempt %d)", c.Attempt)
			}
			changes = append(changes, text)
		}
		if f := e.Trouble; f != nil {
			changes = append(changes, "stuck: "+string(f.Code))
		} else if f := e.Failure; f != nil {
			changes = append(changes, "because of "+string(f.Code))
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\n", e.Seq, e.At.Format("2006-01-02T15:04:05.000Z"), cause, e.Status, strings.Join(changes, ", "))
	}
	return table.Flush()
}

func sagaPreviewCommand(client *adminClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "preview ID", Short: "Show what a compensation would send, in order", Args: cobra.ExactArgs(1), ValidArgsFunction: client.completeID(),
		RunE: func(cmd *cobra.Command, args []string) error {
			var preview saga.Preview
			if err := client.get(cmd.Context(), "/admin/v1/sagas/"+url.PathEscape(args[0])+"/preview", &preview); err != nil {
				return err
			}
			if output != "table" {
				return printJSON(cmd.OutOrStdout(), preview, output)
			}
			if err := printSends(cmd.OutOrStdout(), preview.Sends); err != nil {
				return err
			}
			if preview.Trouble != nil {
				return failure{wire.ExitFailed, fmt.Errorf("it would get stuck at %s: %s, %s", preview.Trouble.Step, preview.Trouble.Code, preview.Trouble.Message), ""}
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// printSends lists messages.
func printSends(w io.Writer, sends []saga.Planned) error {
	if len(sends) == 0 {
		_, err := fmt.Fprintln(w, "nothing is sent")
		return err
	}
	table := columns(w)
	fmt.Fprintln(table, "STEP\tSENDS\tDONE?\tREQUEST")
	for _, p := range sends {
		what, done := p.Type, ""
		if p.Kind == "local step" {
			what = "(in the engine)"
		}
		switch {
		case p.InDoubt:
			done = "in doubt"
		case p.Undo:
			done = "yes"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", fallback(p.Step, "-"), what, done, p.Request)
	}
	return table.Flush()
}

func sagaExportCommand(client *adminClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "export ID", Short: "Print everything there is of a saga, for an archive or a test", Args: cobra.ExactArgs(1),
		ValidArgsFunction: client.completeID(),
		RunE: func(cmd *cobra.Command, args []string) error {
			var export saga.Export
			if err := client.get(cmd.Context(), "/admin/v1/sagas/"+url.PathEscape(args[0])+"/export", &export); err != nil {
				return err
			}
			if output == "table" {
				return printHistory(cmd.OutOrStdout(), export.History)
			}
			return printJSON(cmd.OutOrStdout(), export, output)
		},
	}
	outputFlagOf(cmd, &output, "json", "jsonl", "table")
	return cmd
}

// completeID has the shell complete the id of a saga from the newest ones, of those
// statuses if any are given.
func (c *adminClient) completeID(statuses ...saga.Status) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if len(statuses) == 0 {
			statuses = []saga.Status{""}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second) // a shell waits for it
		defer cancel()
		var all []cobra.Completion
		for _, status := range statuses {
			sagas, err := c.list(ctx, admin.BulkFilter{Status: status}, 50)
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			for _, s := range sagas {
				all = append(all, cobra.CompletionWithDesc(s.ID, fmt.Sprintf("%s@%d %s", s.Name, s.Version, s.Status)))
			}
		}
		return all, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// completeStep has the shell complete the step of the saga that is named.
func (c *adminClient) completeStep(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	in, err := c.saga(ctx, args[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var all []cobra.Completion
	for _, step := range in.Steps {
		if step.Status == saga.StepRunning || step.Status == saga.StepCompensating {
			all = append(all, cobra.CompletionWithDesc(step.Name, string(step.Status)))
		}
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}

func fallback(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

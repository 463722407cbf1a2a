package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/saga"
)

// bulkFlags are those of saga bulk beside the filter.
type bulkFlags struct {
	filter                           filterFlags
	by, reason, target, data, output string
	expect                           int
	rate                             float64
	dry                              bool
}

func sagaBulkCommand(client *adminClient) *cobra.Command {
	var (
		f     bulkFlags
		names []string
	)
	for _, verb := range saga.Verbs() {
		names = append(names, string(verb))
	}
	cmd := &cobra.Command{
		Use: "bulk VERB", Short: "Give one order to all sagas that the flags select",
		Long: `Bulk gives one order to all sagas that the flags select, one after the other. It
first counts them, and asks for that number, or takes it from --expect: an order to
other sagas than you have looked at is refused. Interrupt it as you like, and give it
again: sagas that have obeyed are not selected any more, or refuse to obey twice.`,
		Example: `  countermand saga bulk retry --status stuck --step commit-stock --reason 'inventory is back'
  countermand saga bulk cancel --definition checkout --status running --created-before 2h --reason 'ticket 4711' --dry-run`,
		Args: cobra.ExactArgs(1), ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(names, args[0]) {
				return failure{wire.ExitUsage, fmt.Errorf("there is no verb %q", args[0]), "use " + list(names)}
			}
			return bulk(cmd, client, saga.Verb(args[0]), f)
		},
	}
	f.filter.register(cmd)
	signFlags(cmd, &f.by, &f.reason)
	flags := cmd.Flags()
	flags.IntVar(&f.expect, "expect", -1, "how many sagas are selected; asked for when it is not given")
	flags.Float64Var(&f.rate, "rate", 50, "how many sagas are told per second, at most 1000")
	flags.BoolVar(&f.dry, "dry-run", false, "show what would become of each, and do nothing")
	flags.StringVar(&f.target, "target", "", "the step that the order is about; for skip and complete --step when it is not given")
	flags.StringVar(&f.data, "data", "", "the reply of complete or the state of edit, as JSON; @FILE reads a file, - stdin")
	outputFlag(cmd, &f.output)
	return cmd
}

func bulk(cmd *cobra.Command, client *adminClient, verb saga.Verb, f bulkFlags) error {
	if err := signed(f.by, f.reason); err != nil {
		return err
	}
	filter, err := f.filter.filter(time.Now())
	if err != nil {
		return err
	}
	request := admin.BulkRequest{Verb: verb, By: f.by, Reason: f.reason, Step: f.target, Filter: filter, Rate: f.rate, DryRun: f.dry}
	if request.Step == "" && (verb == saga.Skip || verb == saga.Complete) {
		request.Step = filter.Step
	}
	if request.Data, err = readData(cmd.InOrStdin(), "--data", f.data); err != nil {
		return err
	}
	if !f.dry {
		if request.ExpectedCount, err = expected(cmd, client, filter, verb, f.expect); err != nil {
			return err
		}
	}
	var (
		last  admin.BulkLine
		items []saga.BulkItem
	)
	err = client.lines(cmd.Context(), "/admin/v1/sagas:bulk", request, func(text []byte) error {
		var line admin.BulkLine
		if err := json.Unmarshal(text, &line); err != nil {
			return fmt.Errorf("answer of the admin API: %w", err)
		}
		last = line
		if line.Saga == nil {
			return nil
		}
		if f.output == "json" {
			items = append(items, *line.Saga)
			return nil
		}
		return printItem(cmd.OutOrStdout(), line.Saga, f.output)
	})
	if err == nil && f.output == "json" {
		err = printAll(cmd.OutOrStdout(), items, f.output)
	}
	if err != nil {
		return err
	}
	switch {
	case last.Event != "finished" || last.Count == nil:
		return failure{wire.ExitFailed, fmt.Errorf("the bulk order was interrupted: %s", fallback(last.Detail, "the connection ended")), "give it again"}
	case f.dry:
		fmt.Fprintf(cmd.ErrOrStderr(), "dry run: %d of %d sagas would obey, %d would refuse\n", last.Count.Done, last.Count.Selected, last.Count.Refused)
	default:
		fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d sagas obeyed, %d refused, %d are gone\n", last.Count.Done, last.Count.Selected, last.Count.Refused, last.Count.NotFound)
	}
	if last.Count.Refused > 0 && !f.dry {
		return failure{exitConflict, fmt.Errorf("%d sagas refused", last.Count.Refused), ""}
	}
	return nil
}

func printItem(w io.Writer, item *saga.BulkItem, output string) error {
	if output == "jsonl" {
		return printJSON(w, item, output)
	}
	text := string(item.Status)
	if item.Code != "" {
		text = item.Code + ", " + item.Message
	}
	_, err := fmt.Fprintf(w, "%s  %-9s  %s\n", item.ID, item.Outcome, text)
	return err
}

// expected returns how many sagas the operator means.
func expected(cmd *cobra.Command, client *adminClient, filter admin.BulkFilter, verb saga.Verb, expect int) (int, error) {
	if expect >= 0 {
		return expect, nil
	}
	sagas, err := client.list(cmd.Context(), filter, saga.BulkMax+1)
	if err != nil {
		return 0, err
	}
	return confirmed(cmd, string(verb), "sagas", len(sagas), "look at them with saga list")
}

// confirmed has the operator type how many things an order is for.
func confirmed(cmd *cobra.Command, verb, things string, count int, look string) (int, error) {
	in := cmd.InOrStdin()
	if in == os.Stdin && !term.IsTerminal(int(os.Stdin.Fd())) {
		return 0, failure{wire.ExitUsage, fmt.Errorf("the flags select %d %s, and nobody is there to confirm it", count, things), fmt.Sprintf("%s, then give --expect %d", look, count)}
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s %d %s? Type the number to go on: ", verb, count, things)
	return typed(cmd.Context(), in, count)
}

// typed reads the number that confirms an order.
func typed(ctx context.Context, in io.Reader, count int) (int, error) {
	answers := make(chan string, 1) // the one line; nobody waits to send
	go func() {
		line, _ := bufio.NewReader(in).ReadString('\n')
		answers <- line
	}()
	select {
	case line := <-answers:
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || n != count {
			return 0, failure{wire.ExitFailed, errors.New("not confirmed, so nothing was done"), ""}
		}
		return n, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

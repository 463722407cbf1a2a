package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/saga"
)

// exitNotFound is the exit code for a saga that does not exist.
const exitNotFound = 4

func sagaCommand() *cobra.Command {
	client := &adminClient{http: &http.Client{Timeout: 10 * time.Second}}
	cmd := &cobra.Command{Use: "saga", Short: "Look into sagas: list, get, watch"}
	cmd.PersistentFlags().StringVar(&client.base, "admin", fallback(os.Getenv("COUNTERMAND_ADMIN_URL"), "http://"+wire.DefaultAdminAddr),
		"admin API of a dev process or an engine (COUNTERMAND_ADMIN_URL)")
	cmd.AddCommand(sagaListCommand(client), sagaGetCommand(client), sagaWatchCommand(client))
	return cmd
}

func sagaListCommand(client *adminClient) *cobra.Command {
	var status, definition, output string
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List sagas, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{"limit": {strconv.Itoa(min(limit, 500))}}
			if status != "" {
				query.Set("status", status)
			}
			if definition != "" {
				query.Set("definition", definition)
			}
			sagas := []saga.Summary{} // not nil: an empty list is [] in JSON
			for len(sagas) < limit {
				var page admin.List
				if err := client.get(cmd.Context(), "/admin/v1/sagas?"+query.Encode(), &page); err != nil {
					return err
				}
				sagas = append(sagas, page.Sagas...)
				if page.Next == "" {
					break
				}
				query.Set("cursor", page.Next)
			}
			return printList(cmd.OutOrStdout(), sagas[:min(limit, len(sagas))], output)
		},
	}
	cmd.Flags().StringVar(&status, "status", "", "only this status: running, compensating, completed, compensated, stuck, abandoned")
	cmd.Flags().StringVar(&definition, "definition", "", "only sagas of this definition, such as checkout")
	cmd.Flags().IntVar(&limit, "limit", 20, "at most this many")
	outputFlag(cmd, &output)
	return cmd
}

func sagaGetCommand(client *adminClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "get ID", Short: "Show one saga with its steps", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := client.saga(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if output != "table" {
				return printJSON(cmd.OutOrStdout(), in, output)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), tree(in))
			return err
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func sagaWatchCommand(client *adminClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "watch ID", Short: "Follow one saga until it ends; exit code 1 unless it completed", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return watch(cmd, client, args[0], output) },
	}
	outputFlag(cmd, &output)
	return cmd
}

// watch prints the saga at each of its transitions. On a terminal the tree is
// drawn over the one before.
func watch(cmd *cobra.Command, client *adminClient, id, output string) error {
	out := cmd.OutOrStdout()
	terminal := out == os.Stdout && term.IsTerminal(int(os.Stdout.Fd()))
	var revision int64
	drawn := 0
	for {
		in, err := client.saga(cmd.Context(), id)
		if err != nil {
			return err
		}
		if in.Revision != revision {
			revision = in.Revision
			if output != "table" {
				if err := printJSON(out, in, "jsonl"); err != nil {
					return err
				}
			} else {
				text := tree(in)
				if terminal && drawn > 0 {
					text = fmt.Sprintf("\x1b[%dA\x1b[J%s", drawn, text)
				}
				drawn = strings.Count(tree(in), "\n")
				if _, err := io.WriteString(out, text); err != nil {
					return err
				}
			}
		}
		if in.Status.Final() {
			if in.Status != saga.Completed {
				return failure{wire.ExitFailed, fmt.Errorf("saga ended %s", in.Status), ""}
			}
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		}
	}
}

func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "table", "table, json or jsonl")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		switch *output {
		case "table", "json", "jsonl":
			return nil
		}
		return failure{wire.ExitUsage, fmt.Errorf("output %q", *output), "use table, json or jsonl"}
	}
}

func printList(w io.Writer, sagas []saga.Summary, output string) error {
	switch output {
	case "json":
		return printJSON(w, sagas, output)
	case "jsonl":
		for i := range sagas {
			if err := printJSON(w, sagas[i], output); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tSAGA\tSTATUS\tWAITS FOR\tAGE\tWHY")
	for _, in := range sagas {
		reason := strings.TrimPrefix(in.Step+": "+string(in.Code), ": ")
		fmt.Fprintf(table, "%s\t%s@%d\t%s\t%s\t%s\t%s\n", in.ID, in.Name, in.Version, in.Status, strings.Join(in.Waits, ", "),
			time.Since(in.CreatedAt).Round(time.Second), reason)
	}
	return table.Flush()
}

// tree shows a saga with its steps, and under each step its compensation.
func tree(in admin.Saga) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s@%d  %s  %s\n", in.ID, in.Name, in.Version, in.Status, why(&in.Instance))
	for i, step := range in.Steps {
		branch := "├─"
		if i == len(in.Steps)-1 {
			branch = "└─"
		}
		fmt.Fprintf(&b, "%s %s %s  %s", branch, mark(step.Status), step.Name, step.Status)
		if step.Do.Attempts > 1 {
			fmt.Fprintf(&b, "  %d attempts", step.Do.Attempts)
		}
		if step.Undo.Attempts > 1 {
			fmt.Fprintf(&b, "  %d undo attempts", step.Undo.Attempts)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func mark(status saga.StepStatus) string {
	switch status {
	case saga.StepDone:
		return "✓"
	case saga.StepRejected, saga.StepTimedOut:
		return "✗"
	case saga.StepRunning:
		return "▶"
	case saga.StepCompensating, saga.StepCompensated:
		return "↩"
	default:
		return "·"
	}
}

func why(in *saga.Instance) string {
	f := in.Trouble
	if f == nil {
		f = in.Failure
	}
	if f == nil {
		return ""
	}
	return strings.TrimSuffix(fmt.Sprintf("%s: %s, %s", f.Step, f.Code, f.Message), ", ")
}

func printJSON(w io.Writer, value any, output string) error {
	encoder := json.NewEncoder(w)
	if output == "json" {
		encoder.SetIndent("", "  ")
	}
	return encoder.Encode(value)
}

// adminClient calls the admin API.
type adminClient struct {
	base string
	http *http.Client
}

func (c *adminClient) saga(ctx context.Context, id string) (admin.Saga, error) {
	var in admin.Saga
	err := c.get(ctx, "/admin/v1/sagas/"+url.PathEscape(id), &in)
	return in, err
}

func (c *adminClient) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(c.base, "/")+path, nil)
	if err != nil {
		return failure{wire.ExitUsage, err, "--admin wants a URL such as http://127.0.0.1:8081"}
	}
	response, err := c.http.Do(request)
	if err != nil {
		return failure{
			wire.ExitUnreachable, fmt.Errorf("no admin API at %s: %w", c.base, errors.Unwrap(err)),
			"start one with: countermand dev, or name it with --admin URL",
		}
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		var problem struct{ Code, Detail string }
		if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&problem); err != nil {
			return failure{wire.ExitFailed, fmt.Errorf("the admin API answered %s", response.Status), "is --admin the admin listener of an engine?"}
		}
		code := wire.ExitFailed
		switch response.StatusCode {
		case http.StatusNotFound:
			code = exitNotFound
		case http.StatusBadRequest:
			code = wire.ExitUsage
		}
		return failure{code, fmt.Errorf("%s: %s", problem.Code, problem.Detail), ""}
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("answer of the admin API: %w", err)
	}
	return nil
}

func fallback(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

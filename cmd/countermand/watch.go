package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/saga"
)

func sagaWatchCommand(client *adminClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "watch ID", Short: "Follow one saga until it ends; exit code 1 unless it completed", Args: cobra.ExactArgs(1),
		ValidArgsFunction: client.completeID(saga.Running, saga.Compensating, saga.Stuck),
		RunE:              func(cmd *cobra.Command, args []string) error { return watch(cmd, client, args[0], output) },
	}
	outputFlag(cmd, &output)
	return cmd
}

// watchEvery is how often a saga that is followed is looked at.
const watchEvery = 200 * time.Millisecond

// watch prints the saga at each of its transitions. On a terminal the tree is
// drawn over the one before.
func watch(cmd *cobra.Command, client *adminClient, id, output string) error {
	out := cmd.OutOrStdout()
	terminal := out == os.Stdout && term.IsTerminal(int(os.Stdout.Fd()))
	var (
		revision int64
		drawn    int
		graph    *saga.Graph
	)
	for {
		in, err := client.saga(cmd.Context(), id)
		if err != nil {
			return err
		}
		if revision == 0 && output == "table" {
			if graph, err = client.graph(cmd.Context(), in.Name, in.Version); err != nil {
				return err
			}
		}
		if in.Revision != revision {
			revision = in.Revision
			if output != "table" {
				err = printJSON(out, in, "jsonl")
			} else {
				text := tree(in, graph)
				lines := strings.Count(text, "\n")
				if terminal && drawn > 0 {
					text = fmt.Sprintf("\x1b[%dA\x1b[J%s", drawn, text)
				}
				drawn = lines
				_, err = io.WriteString(out, text)
			}
			if err != nil {
				return err
			}
		}
		if in.Status.Final() {
			if in.Status != saga.Completed {
				return failure{wire.ExitFailed, fmt.Errorf("saga ended %s", in.Status), ""}
			}
			return nil
		}
		if err := rest(cmd.Context(), watchEvery); err != nil {
			return err
		}
	}
}

func rest(ctx context.Context, pause time.Duration) error {
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

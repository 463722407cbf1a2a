package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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

// appearWithin is how long a saga that is to be followed may be unknown: the engine
// comes to a command that has just been accepted a moment later.
const appearWithin = 3 * time.Second

// watch prints the saga at each of its transitions.
func watch(cmd *cobra.Command, client *adminClient, id, output string) error {
	out := cmd.OutOrStdout()
	var (
		revision int64
		screen   = screen{out: out}
		graph    *saga.Graph
	)
	for limit := time.Now().Add(appearWithin); ; {
		in, err := client.saga(cmd.Context(), id)
		if missing, ok := errors.AsType[failure](err); ok && missing.code == exitNotFound && revision == 0 && time.Now().Before(limit) {
			if err := rest(cmd.Context(), watchEvery); err != nil {
				return err
			}
			continue
		}
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
				err = screen.show(tree(in, graph))
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

// watchList prints the sagas of a list whenever one comes, goes or changes, until
// it is interrupted. As JSON lines, each is printed again when it has changed.
func watchList(ctx context.Context, out io.Writer, list func() ([]saga.Summary, error), output string) error {
	screen := screen{out: out}
	var before []saga.Summary
	for first := true; ; first = false {
		sagas, err := list()
		if err != nil {
			return err
		}
		changed := slices.DeleteFunc(slices.Clone(sagas), func(in saga.Summary) bool {
			return slices.ContainsFunc(before, func(was saga.Summary) bool { return was.ID == in.ID && was.Revision == in.Revision })
		})
		switch {
		case output != "table":
			err = printList(out, changed, output)
		case first || screen.terminal() || len(changed) > 0 || len(sagas) != len(before): // a terminal shows their age
			var text strings.Builder
			if err = printList(&text, sagas, output); err == nil {
				err = screen.show(text.String())
			}
		}
		if err != nil {
			return err
		}
		before = sagas
		if err := rest(ctx, watchListEvery); err != nil {
			return err
		}
	}
}

// watchListEvery is how often a list that is followed is asked for.
const watchListEvery = time.Second

// screen draws each text over the one before, where it is a terminal.
type screen struct {
	out   io.Writer
	drawn int // lines
}

func (s *screen) terminal() bool { return s.out == os.Stdout && term.IsTerminal(int(os.Stdout.Fd())) }

func (s *screen) show(text string) error {
	lines := strings.Count(text, "\n")
	if s.drawn > 0 && s.terminal() {
		text = fmt.Sprintf("\x1b[%dA\x1b[J%s", s.drawn, text)
	}
	s.drawn = lines
	_, err := io.WriteString(s.out, text)
	return err
}

func rest(ctx context.Context, pause time.Duration) error {
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

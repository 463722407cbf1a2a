package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/saga"
)

func defCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "def", Short: "Look into the saga definitions of this binary: list, graph, lint, compat"}
	cmd.AddCommand(defListCommand(), defGraphCommand(), defLintCommand(), defCompatCommand())
	return cmd
}

// graphs returns the shapes of definitions that are sound, by name and version.
func graphs(definitions []saga.Compiler) ([]saga.Graph, error) {
	var (
		all  []saga.Graph
		errs []error
	)
	for _, d := range definitions {
		program, err := d.Compile()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, program.Graph())
	}
	slices.SortFunc(all, func(a, b saga.Graph) int {
		if a.Name != b.Name {
			return strings.Compare(a.Name, b.Name)
		}
		return a.Version - b.Version
	})
	return all, errors.Join(errs...)
}

func defListCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "list", Short: "List the definitions of this binary", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := graphs(wire.Definitions())
			if err != nil {
				return err
			}
			return printDefinitions(cmd.OutOrStdout(), all, output)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func printDefinitions(w io.Writer, all []saga.Graph, output string) error {
	if output != "table" {
		return printAll(w, all, output)
	}
	table := columns(w)
	fmt.Fprintln(table, "DEFINITION\tSTARTS WITH\tNODES\tPIVOT\tDEADLINE")
	for i := range all {
		nodes, pivot := count(&all[i].Flow)
		deadline := "-"
		if all[i].Deadline > 0 {
			deadline = time.Duration(all[i].Deadline * float64(time.Second)).String()
		}
		fmt.Fprintf(table, "%s@%d\t%s\t%d\t%s\t%s\n", all[i].Name, all[i].Version, all[i].Start, nodes, fallback(pivot, "-"), deadline)
	}
	return table.Flush()
}

// count returns how many nodes have a name, and which is the pivot.
func count(n *saga.GraphNode) (nodes int, pivot string) {
	if n.Name != "" {
		nodes++
	}
	if n.Pivot {
		pivot = n.Name
	}
	for i := range n.Nodes {
		inner, p := count(&n.Nodes[i])
		nodes, pivot = nodes+inner, fallback(pivot, p)
	}
	return nodes, pivot
}

func defGraphCommand() *cobra.Command {
	var (
		output  string
		version int
	)
	cmd := &cobra.Command{
		Use: "graph NAME", Short: "Draw a definition of this binary", Args: cobra.ExactArgs(1),
		Example: `  countermand def graph checkout -o svg > checkout.svg`,
		ValidArgsFunction: func(*cobra.Command, []string, string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
			all, _ := graphs(wire.Definitions()) // those that are sound
			for i := range all {
				names = append(names, all[i].Name)
			}
			return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := graphs(wire.Definitions())
			if err != nil {
				return err
			}
			for i := range slices.Backward(all) { // the newest first
				if all[i].Name == args[0] && (version == 0 || all[i].Version == version) {
					return drawDefinition(cmd.OutOrStdout(), all[i], output)
				}
			}
			return failure{exitNotFound, fmt.Errorf("this binary has no definition %s", args[0]), "see: countermand def list"}
		},
	}
	cmd.Flags().IntVar(&version, "version", 0, "which version; the newest when it is not given")
	outputFlagOf(cmd, &output, "mermaid", "svg", "json", "jsonl")
	return cmd
}

func drawDefinition(w io.Writer, g saga.Graph, output string) (err error) {
	switch output {
	case "mermaid":
		_, err = io.WriteString(w, g.Mermaid())
	case "svg":
		_, err = io.WriteString(w, g.SVG())
	default:
		err = printJSON(w, g, output)
	}
	return err
}

// violation is one thing wrong with a definition.
type violation struct {
	Message string `json:"message"`
}

func defLintCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "lint", Short: "Check all definitions of this binary; exit code 1 when one is not sound", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return lint(cmd.OutOrStdout(), cmd.ErrOrStderr(), output, wire.Definitions())
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// lint prints everything that is wrong with definitions, alone and together.
func lint(out, words io.Writer, output string, definitions []saga.Compiler) error {
	_, err := saga.NewEngine(nil, saga.EngineConfig{Logger: slog.New(slog.DiscardHandler)}, definitions...)
	found := violations(err)
	if output != "table" {
		if err := printAll(out, found, output); err != nil {
			return err
		}
	} else {
		for _, v := range found {
			fmt.Fprintln(out, v.Message)
		}
	}
	if len(found) > 0 {
		return failure{wire.ExitFailed, fmt.Errorf("%d violations", len(found)), ""}
	}
	fmt.Fprintf(words, "%d definitions are sound\n", len(definitions))
	return nil
}

// violations takes joined errors apart.
func violations(err error) (all []violation) {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			all = append(all, violations(one)...)
		}
		return all
	}
	return []violation{{err.Error()}}
}

func defCompatCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "compat", Short: "Compare this binary's definitions with live sagas; exit code 1 when one does not fit", Args: cobra.NoArgs,
		Long: `Compat compares the definitions of this binary with the sagas that have not ended
in the engine's database, named by DATABASE_URL. Run the new binary before it is
deployed: an engine refuses to start on sagas that it could not advance.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			url, err := wire.DatabaseURL()
			if err != nil {
				return failure{wire.ExitUsage, err, "set DATABASE_URL to the database of the engine"}
			}
			return compatible(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), output, url, wire.Definitions())
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func compatible(ctx context.Context, out, words io.Writer, output, url string, definitions []saga.Compiler) error {
	pool, err := postgres.Open(ctx, postgres.Config{URL: url, ApplicationName: "countermand-compat", MaxConns: 2, Params: saga.SessionParams()})
	if err != nil {
		return failure{wire.ExitUnreachable, err, "is DATABASE_URL the engine's database?"}
	}
	defer pool.Close()
	engine, err := saga.NewEngine(pool, saga.EngineConfig{Logger: slog.New(slog.DiscardHandler)}, definitions...)
	if err != nil {
		return err
	}
	misfits, err := engine.Compare(ctx)
	if err != nil {
		return err
	}
	if output != "table" {
		if err := printAll(out, misfits, output); err != nil {
			return err
		}
	} else if len(misfits) > 0 {
		table := columns(out)
		fmt.Fprintln(table, "DEFINITION\tSAGAS\tEXAMPLE\tWHY")
		for _, m := range misfits {
			fmt.Fprintf(table, "%s@%d\t%d\t%s\t%s\n", m.Definition, m.Version, m.Sagas, m.Example, m.Message)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	if len(misfits) > 0 {
		return failure{wire.ExitFailed, fmt.Errorf("%d definitions do not fit live sagas", len(misfits)), "give what changed a new version, and keep the old one until its sagas have ended"}
	}
	fmt.Fprintln(words, "every live saga has its definition")
	return nil
}

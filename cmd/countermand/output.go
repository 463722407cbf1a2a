package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
)

var outputs = []string{"table", "json", "jsonl"}

// outputFlag adds -o and checks it.
func outputFlag(cmd *cobra.Command, output *string) { outputFlagOf(cmd, output, outputs...) }

// outputFlagOf is outputFlag for a command that has other forms; the first one is
// the default.
func outputFlagOf(cmd *cobra.Command, output *string, forms ...string) {
	cmd.Flags().StringVarP(output, "output", "o", forms[0], list(forms))
	complete(cmd, "output", forms...)
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if slices.Contains(forms, *output) {
			return nil
		}
		return failure{wire.ExitUsage, fmt.Errorf("output %q", *output), "use " + list(forms)}
	}
}

// list joins words as a person would: table, json or jsonl.
func list(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// columns returns what aligns lines whose cells end with tabs; flush it.
func columns(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// complete has the shell complete the values of a flag.
func complete(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // there is no such flag
	}
}

func printJSON(w io.Writer, value any, output string) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	if output == "json" {
		encoder.SetIndent("", "  ")
	}
	return encoder.Encode(value)
}

// printAll prints values: as one array, or one a line.
func printAll[T any](w io.Writer, values []T, output string) error {
	if output == "json" {
		if values == nil {
			values = []T{}
		}
		return printJSON(w, values, output)
	}
	for i := range values {
		if err := printJSON(w, values[i], output); err != nil {
			return err
		}
	}
	return nil
}

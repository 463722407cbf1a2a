package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/events/asyncapi"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/webhook"
)

func specCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "spec", Short: "Write documents about the contracts of this binary: openapi, asyncapi, jsonschema"}
	cmd.AddCommand(specOpenAPICommand(), specAsyncAPICommand(), specJSONSchemaCommand())
	return cmd
}

func specOpenAPICommand() *cobra.Command {
	var out, routes string
	cmd := &cobra.Command{
		Use: "openapi", Short: "Write the OpenAPI 3.1 document of a route table", Args: cobra.NoArgs,
		Long: `Openapi writes what a gateway with that route table and webhooks answers at /openapi.json: its
routes with the schemas of their bodies, their answers and the credentials they ask for.`,
		Example: `  countermand spec openapi --routes routes.yaml --out api`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			table, err := routeTable(routes)
			if err != nil {
				return err
			}
			document, err := table.OpenAPI(route.OpenAPI(), webhook.OpenAPI())
			if err != nil {
				return err
			}
			return deliver(cmd.OutOrStdout(), cmd.ErrOrStderr(), out, []file{{"openapi.json", append(document, '\n')}})
		},
	}
	cmd.Flags().StringVar(&routes, "routes", os.Getenv("COUNTERMAND_ROUTES"), "route table (default: the shop's)")
	outFlag(cmd, &out)
	return cmd
}

func specAsyncAPICommand() *cobra.Command {
	var (
		out, on string
		roles   []string
	)
	cmd := &cobra.Command{
		Use: "asyncapi", Short: "Write the AsyncAPI 3 document of the events between the roles", Args: cobra.NoArgs,
		Long: `Asyncapi writes who sends and receives which events: channels, operations, messages
with headers, keys, payloads and replies. Brokers differ in the names of headers and
topics, so a document is about one of them.`,
		Example: `  countermand spec asyncapi --role inventory
  countermand spec asyncapi --broker kafka --out api`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{wire.NATS, wire.Kafka}, on) {
				return failure{wire.ExitUsage, fmt.Errorf("there is no broker %q", on), "use nats or kafka"}
			}
			for _, role := range roles {
				if !slices.Contains(wire.Roles(), role) {
					return failure{wire.ExitUsage, fmt.Errorf("there is no role %q", role), "use one of gateway, engine, order, payment, inventory"}
				}
			}
			document, err := wire.AsyncAPI(asyncapi.Broker(on), roles...)
			if err != nil {
				return err
			}
			return deliver(cmd.OutOrStdout(), cmd.ErrOrStderr(), out, []file{{"asyncapi-" + on + ".json", document}})
		},
	}
	cmd.Flags().StringVar(&on, "broker", wire.NATS, "nats or kafka")
	cmd.Flags().StringSliceVar(&roles, "role", nil, "only what this role says and hears; may be given several times")
	outFlag(cmd, &out)
	return cmd
}

func specJSONSchemaCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "jsonschema [TYPE]", Short: "Write the JSON Schemas of the contracts, or print one", Args: cobra.MaximumNArgs(1),
		Long: `Jsonschema writes the JSON Schema (2020-12) of every request, reply and fact, in a
file named after the type of the event that carries it. Without --out it prints the
schema of TYPE, or else the names of all.`,
		ValidArgsFunction: func(*cobra.Command, []string, string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
			all, _ := wire.Schemas()
			for _, s := range all {
				names = append(names, s.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := wire.Schemas()
			if err != nil {
				return err
			}
			var files []file
			for _, s := range all {
				if len(args) == 0 || args[0] == s.Name {
					files = append(files, file{s.Name + ".json", s.Document})
				}
			}
			switch {
			case len(files) == 0 && len(args) == 1:
				return failure{exitNotFound, fmt.Errorf("this binary has no contract with a payload %s", args[0]), "see: countermand spec jsonschema"}
			case out == "" && len(args) == 0:
				for _, s := range all {
					if _, err := fmt.Fprintln(cmd.OutOrStdout(), s.Name); err != nil {
						return err
					}
				}
				return nil
			}
			return deliver(cmd.OutOrStdout(), cmd.ErrOrStderr(), out, files)
		},
	}
	outFlag(cmd, &out)
	return cmd
}

func outFlag(cmd *cobra.Command, out *string) {
	cmd.Flags().StringVar(out, "out", "", "folder to write to; made if it does not exist")
}

// file is one to be written.
type file struct {
	name    string
	content []byte
}

// deliver writes files into a folder, or the only one to w.
func deliver(w, words io.Writer, folder string, files []file) error {
	if folder == "" {
		_, err := w.Write(files[0].content)
		return err
	}
	err := os.MkdirAll(folder, 0o755)
	for _, f := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(folder, f.name), f.content, 0o644))
	}
	if err == nil {
		fmt.Fprintf(words, "%d files written to %s\n", len(files), folder)
	}
	return err
}

// Command countermand is the tool of developers and operators: it runs
// everything in one process (dev), shows it surviving crashes (demo), migrates
// databases and looks into running sagas.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
)

func main() { os.Exit(run(context.Background(), os.Args[1:])) }

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string) int {
	root := &cobra.Command{
		Use:   "countermand",
		Short: "Turn HTTP requests into reliable multi-step transactions, with undo",
		Long: `Countermand turns HTTP requests into sagas: multi-step transactions across
services that are undone, in the right order, when a step says no.

Start with:  countermand demo   a minute of orders, crashes and undos
             countermand dev    everything in one process, for your own requests`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	//nolint:contextcheck // cobra hands the context to each command when it runs
	root.AddCommand(
		devCommand(),
		demoCommand(),
		serveCommand(),
		migrateCommand(),
		sagaCommand(),
		defCommand(),
		scheduleCommand(),
		dlqCommand(),
		replayCommand(),
		outboxCommand(),
		topCommand(),
		routeCommand(),
		keyCommand(),
		webhookCommand(),
		aiCommand(),
		specCommand(),
		schemaCommand(),
		versionCommand(),
	)
	for _, cmd := range root.Commands() {
		refuseUnknown(cmd)
	}
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return failure{wire.ExitUsage, err, usageFix} })
	err := root.ExecuteContext(ctx)
	if err == nil {
		return wire.ExitOK
	}
	var f failure
	if !errors.As(err, &f) {
		f = failure{code: wire.ExitFailed, err: err}
		if isUsage(err) {
			f.code, f.fix = wire.ExitUsage, usageFix
		}
	}
	fmt.Fprintln(os.Stderr, "countermand:", f.err)
	if f.fix != "" {
		fmt.Fprintln(os.Stderr, "  fix:", f.fix)
	}
	return f.code
}

// refuseUnknown has cmd, and what is below it, fail for a command that it does not have.
// Cobra would show help, and a script would take that for success.
func refuseUnknown(cmd *cobra.Command) {
	for _, below := range cmd.Commands() {
		refuseUnknown(below)
	}
	if !cmd.HasSubCommands() || cmd.Runnable() {
		return
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		f := failure{wire.ExitUsage, fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()), usageFix}
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			f.fix = "did you mean " + list(near) + "? " + usageFix
		}
		return f
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// usageFix is what helps with a command line that cannot be read.
const usageFix = "add --help to see what there is"

// failure is an error with an exit code and, where there is one, what to do.
type failure struct {
	code int
	err  error
	fix  string
}

func (f failure) Error() string { return f.err.Error() }
func (f failure) Unwrap() error { return f.err }

// isUsage recognises what cobra itself complains about.
func isUsage(err error) bool {
	for _, prefix := range []string{"unknown command", "unknown flag", "accepts ", "requires ", "invalid argument"} {
		if len(err.Error()) >= len(prefix) && err.Error()[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), wire.Version())
			return err
		},
	}
}

func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "serve ROLE", Short: "Run one role, as its own binary would: gateway, engine, order, payment, inventory or ai",
		Args: cobra.ExactArgs(1), ValidArgs: wire.Roles(),
		RunE: func(_ *cobra.Command, args []string) error {
			for _, role := range wire.Roles() {
				if role == args[0] {
					if code := wire.Main(role); code != wire.ExitOK {
						os.Exit(code) // Main has said why
					}
					return nil
				}
			}
			return failure{wire.ExitUsage, fmt.Errorf("there is no role %q", args[0]), "use one of gateway, engine, order, payment, inventory, ai"}
		},
	}
}

func migrateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "migrate ROLE",
		Short: "Bring a role's database up to date: engine, order, payment, inventory, ai or gateway",
		Long: `Migrate brings the schema of a role's database, named by DATABASE_URL, up to
date. It is forward-only and safe to run from many places at once.`,
		Args: cobra.ExactArgs(1), ValidArgs: []string{wire.Engine, wire.Order, wire.Payment, wire.Inventory, wire.AI, wire.Gateway},
		RunE: func(cmd *cobra.Command, args []string) error {
			url, err := wire.DatabaseURL()
			if err != nil {
				return failure{wire.ExitUsage, err, "set DATABASE_URL to the database of the " + args[0]}
			}
			if err := wire.Migrate(cmd.Context(), args[0], url); err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "%s: the schema is up to date\n", args[0])
			return nil
		},
	}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/demo"
	"github.com/countermand/countermand/cmd/internal/wire"
)

func demoCommand() *cobra.Command {
	config := demo.Config{Orders: 400, Seed: 1, Rate: 50, Clients: 32}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Place orders, kill processes in the middle, and audit stock and money",
		Long: `Demo starts every role as a process of its own on a private Postgres and
JetStream, follows one order while it is undone, places a mix of orders, kills the
inventory service, what calls AI models and the engine with SIGKILL in the middle,
and then audits the services' databases. The models are simulated; no key is needed
and nothing is sent anywhere.

It exits 1 when an invariant is broken.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config.Orders < 1 || config.Clients < 1 || config.Rate < 0 {
				return failure{wire.ExitUsage, errors.New("--orders and --clients must be positive"), ""}
			}
			return playDemo(cmd.Context(), config, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&config.Orders, "orders", config.Orders, "how many orders to place")
	flags.Uint64Var(&config.Seed, "seed", config.Seed, "the same seed places the same orders")
	flags.IntVar(&config.Rate, "rate", config.Rate, "orders per second; 0: as fast as they go")
	flags.IntVar(&config.Clients, "clients", config.Clients, "how many clients place orders at a time")
	flags.StringVar(&config.DataDir, "data-dir", "", "folder to keep state and logs in (default: a temporary one)")
	flags.BoolVar(&asJSON, "json", false, "print the report as one JSON object")
	return cmd
}

func playDemo(ctx context.Context, config demo.Config, asJSON bool) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger, err := wire.NewLogger(slog.LevelWarn)
	if err != nil {
		return failure{wire.ExitUsage, err, ""}
	}
	if config.Broker, err = wire.BrokerFromEnvironment(true); err != nil {
		return failure{wire.ExitUsage, err, ""}
	}
	config.Logger = logger
	config.Say = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	report, err := demo.Run(ctx, config)
	if err != nil {
		return err
	}
	if asJSON {
		encoder := json.NewEncoder(os.Stdout)
		if err := encoder.Encode(report); err != nil {
			return fmt.Errorf("print report: %w", err)
		}
	} else {
		printReport(report)
	}
	if !report.OK() {
		return failure{
			wire.ExitFailed, errors.New("an invariant is broken:\n  " + strings.Join(report.Problems, "\n  ")),
			"run it again with --data-dir DIR and read DIR/logs",
		}
	}
	return nil
}

func printReport(r demo.Report) {
	word := func(ok bool) string {
		if ok {
			return "✓ holds"
		}
		return "✗ BROKEN"
	}
	fmt.Printf(`
%d orders: %d completed, %d compensated, %d stuck, %d duplicates
  stock     %s   what left the shelf was sold, nothing is still reserved
  money     %s   every confirmed order was paid once, no other was
  terminal  %s   every accepted order ended as it had to
  ai        %s   every call of a model is in the ledger once, the budget was kept
%d notes were read by a model for $%s, %d by people alone; %d calls are uncertain
killed in the middle: %s
latency p50 %.0f ms, p95 %.0f ms, p99 %.0f ms (the kills included), %.0f orders/s

try next:
  countermand dev                            everything in one process, for your own requests
  countermand demo --orders 2000 --rate 0    as fast as it goes
  docs/tutorial/first-saga.md                add a step to the checkout
`, r.Orders, r.Completed, r.Compensated, r.Stuck, r.Duplicates,
		word(r.Invariants.Stock), word(r.Invariants.Money), word(r.Invariants.Terminal), word(r.Invariants.AI),
		r.AI.Triaged, r.AI.CostUSD, r.AI.Unread, r.AI.Uncertain,
		strings.Join(r.Killed, ", "), r.LatencyMS.P50, r.LatencyMS.P95, r.LatencyMS.P99, r.OrdersPerSecond)
}

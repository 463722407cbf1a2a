// Command peers measures checkout-3 on this project and on the engines that a
// user would weigh it against, one after the other on one Postgres:
//
//	make bench-peers ARGS="--duration 10s --json"
//
// checkout-3 starts a saga and then does three things in sequence, each of which
// writes one row in a transaction of the participant's own: reserve, authorize,
// confirm. In the variant with compensation one authorization in ten is
// declined, and what was reserved is released by one more transaction.
//
// It ends with a table, or with one JSON object. Compare ratios: the rates are
// worth what their machine is worth.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// options of a run.
type options struct {
	duration time.Duration
	rounds   int
	only     string
	say      func(format string, args ...any)
}

func run(args []string, stdout, stderr io.Writer) int {
	var (
		opts   = options{say: func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }}
		asJSON bool
		flags  = flag.NewFlagSet("peers", flag.ContinueOnError)
	)
	flags.SetOutput(stderr)
	flags.DurationVar(&opts.duration, "duration", 10*time.Second, "length of each measured phase")
	flags.IntVar(&opts.rounds, "rounds", 1, "go round all engines this often and take each one's median run, of two the faster: for busy machines")
	flags.StringVar(&opts.only, "only", "", "only these, by commas: "+strings.Join(engineNames(), ", ")+"; ratios need more than one")
	flags.BoolVar(&asJSON, "json", false, "print one JSON object")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // as our binaries do; the peers gain by it as well
	}
	report, err := compare(ctx, opts)
	if err != nil {
		fmt.Fprintln(stderr, "peers:", err)
		return 1
	}
	if asJSON {
		if err := json.NewEncoder(stdout).Encode(report); err != nil {
			fmt.Fprintln(stderr, "peers:", err)
			return 1
		}
		return 0
	}
	report.print(stdout)
	return 0
}

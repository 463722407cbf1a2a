// Command bench measures the product end to end, as a user would run it, on
// servers that it starts itself:
//
//	go run ./tests/bench NAME [--duration 10s] [--json]
//
// It ends with a table, or with one JSON object. Machines are noisy: compare
// ratios within one run, and trust CPU, commits and WAL per saga more than
// throughput.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// benchmark measures one thing.
type benchmark struct {
	about string
	run   func(ctx context.Context, options options) (Report, error)
}

var benchmarks = map[string]benchmark{
	"ai":         {"the AI route with budgets on, beside a plain proxy, no gateway and, where it is at hand, Portkey's", aiBench},
	"consumer":   {"a participant that clears a backlog of commands, with inbox and replies", consumerBench},
	"followers":  {"streams over HTTP: 10,000 idle followers, and 5,000 events per second to 100 of them", followersBench},
	"latency":    {"from a business transaction to a reader, through outbox and broker, at a fixed rate", latencyBench},
	"relay":      {"events from Postgres to the broker, one or ten to a business transaction", relayBench},
	"checkout":   {"full checkouts over HTTP, JetStream and Postgres with fsync on", checkout},
	"checkout3":  {"start and three steps of one row each, JetStream and Postgres with fsync on, no HTTP", checkout3Benchmark},
	"engine":     {"the engine alone: ready batches of sagas with five steps, Postgres with fsync on", engineBench},
	"visibility": {"operators' queries among a million finished sagas, and an engine that is idle beside them", visibility},
}

// options of a run.
type options struct {
	duration time.Duration
	clients  int
	broker   string // "nats" or "kafka", of relay, consumer and latency
	commits  string // "command" or "batch": one variant of checkout3 only; empty: both
	phase    string // the only phase to run; empty: all
	profile  string // file for a CPU profile of the closed loop; empty: none
	say      func(format string, args ...any)
}

func main() {
	if role := os.Getenv(aiRole); role != "" {
		if err := serveAI(role); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	var (
		opts   = options{say: func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }}
		asJSON bool
		flags  = flag.NewFlagSet("bench", flag.ContinueOnError)
	)
	flags.SetOutput(stderr)
	flags.DurationVar(&opts.duration, "duration", 10*time.Second, "length of each measured phase")
	flags.IntVar(&opts.clients, "clients", 128, "clients of the closed loop of checkout")
	flags.StringVar(&opts.broker, "broker", "nats", "nats or kafka: the `broker` of relay, consumer and latency")
	flags.StringVar(&opts.commits, "commits", "", "checkout3 with one commit per participant `command` or per batch only")
	flags.StringVar(&opts.phase, "phase", "", "the only `phase` of checkout3 or engine to run, such as closed_1024")
	flags.StringVar(&opts.profile, "profile", "", "file for a CPU profile of the process under the closed loop")
	flags.BoolVar(&asJSON, "json", false, "print one JSON object")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: go run ./tests/bench NAME [--duration 10s] [--clients 128] [--broker nats|kafka] [--commits command|batch] [--phase NAME] [--profile FILE] [--json]")
		for _, name := range slices.Sorted(maps.Keys(benchmarks)) {
			fmt.Fprintf(stderr, "  %-12s %s\n", name, benchmarks[name].about)
		}
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		flags.Usage()
		return 2
	}
	b, ok := benchmarks[args[0]]
	if !ok {
		fmt.Fprintf(stderr, "bench: there is no benchmark %q\n", args[0])
		flags.Usage()
		return 2
	}
	if err := flags.Parse(args[1:]); err != nil {
		return 2
	}
	if opts.broker != "nats" && opts.broker != "kafka" {
		fmt.Fprintf(stderr, "bench: there is no broker %q, only nats and kafka\n", opts.broker)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := b.run(ctx, opts)
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	report.Name = args[0]
	if asJSON {
		if err := json.NewEncoder(stdout).Encode(report); err != nil {
			fmt.Fprintln(stderr, "bench:", err)
			return 1
		}
		return 0
	}
	report.print(stdout)
	return 0
}

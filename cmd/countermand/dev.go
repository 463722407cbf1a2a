package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
)

func devCommand() *cobra.Command {
	var (
		config wire.DevConfig
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything in one process on a private Postgres and an in-process broker",
		Long: `Dev runs gateway, engine and the sample services in one process. It needs no
Docker and no configuration: Postgres is a private server in the data folder and
NATS JetStream runs inside the process, both with fsync on. State stays in the
data folder; a crash or kill -9 loses nothing that was accepted.

With DATABASE_URL set, that server is used instead; its user must be allowed to
create roles and databases. With COUNTERMAND_BROKER=kafka and KAFKA_BROKERS, that
Kafka takes the place of the in-process broker.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return dev(cmd.Context(), config, asJSON) },
	}
	flags := cmd.Flags()
	flags.StringVar(&config.DataDir, "data-dir", ".countermand", "folder that keeps all state")
	flags.StringVar(&config.HTTPAddr, "http", os.Getenv("COUNTERMAND_HTTP_ADDR"),
		"public listener (default "+wire.DefaultHTTPAddr+", or the next free port; port 0 picks one)")
	flags.StringVar(&config.AdminAddr, "admin", os.Getenv("COUNTERMAND_ADMIN_ADDR"),
		"admin and metrics listener (default "+wire.DefaultAdminAddr+", or the next free port)")
	flags.StringVar(&config.RoutesFile, "routes", os.Getenv("COUNTERMAND_ROUTES"), "route table (default: the shop's)")
	flags.StringVar(&config.AIFile, "ai", os.Getenv("COUNTERMAND_AI"), "configuration of the AI route (default: simulated models, which need no key)")
	flags.BoolVar(&asJSON, "json", false, "print the ready line as JSON")
	return cmd
}

func dev(ctx context.Context, config wire.DevConfig, asJSON bool) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if config.Logger, err = wire.NewLogger(slog.LevelInfo); err != nil {
		return failure{wire.ExitUsage, err, ""}
	}
	config.Progress = func(text string) { fmt.Fprintln(os.Stderr, text) }
	if config.DataDir, err = filepath.Abs(config.DataDir); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if config.Broker, err = wire.BrokerFromEnvironment(true); err != nil {
		return failure{wire.ExitUsage, err, ""}
	}
	if os.Getenv("DATABASE_URL") != "" || os.Getenv("DATABASE_URL_FILE") != "" {
		if config.AdminURL, err = wire.DatabaseURL(); err != nil {
			return failure{wire.ExitUsage, err, ""}
		}
	}
	if err := wire.CheckRoutes(config.RoutesFile); err != nil {
		return failure{wire.ExitUsage, err, "mend it, and see with: countermand route lint " + config.RoutesFile}
	}
	d, err := wire.StartDev(ctx, config)
	switch {
	case errors.Is(err, wire.ErrNoAdministrator) && config.AdminURL != "":
		return failure{wire.ExitFailed, err, "start the server that DATABASE_URL names, or unset it to have a private one"}
	case err != nil:
		return err
	}
	d.Ready().Print(os.Stdout, asJSON)
	if !asJSON {
		fmt.Fprintf(os.Stderr, devHint, d.Ready().HTTP, d.Ready().Admin)
	}
	failed := d.Wait(ctx)
	stop() // a second signal ends the process at once
	if failed == nil {
		fmt.Fprintln(os.Stderr, "stopping")
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 60*time.Second)
	defer cancel()
	if err := d.Stop(end); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return failed
}

const devHint = `
place an order, and wait for its outcome:

  curl -si %[1]s/v1/orders -H 'Content-Type: application/json' -H 'Prefer: wait=5' \
    -d '{"customer":"ada","currency":"EUR","items":[{"sku":"TEA-001","quantity":2}],"payment":{"token":"tok_ok"}}'

follow an order as it goes, or cancel it, by the Location of its 202 (tok_slow takes three seconds):

  curl -N %[1]s/v1/operations/ID/events
  curl -si -X DELETE %[1]s/v1/operations/ID -H 'Prefer: wait=5'

try tok_declined, tok_capture_fails, tok_slow or tok_never as the token, and look at the sagas:

  countermand saga list --admin %[2]s

talk to a simulated AI model:

  curl -s %[1]s/ai/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{"model":"sim-echo","messages":[{"role":"user","content":"hello"}]}'

have events delivered to a program of yours:

  curl -si %[1]s/v1/subscriptions -H 'Content-Type: application/json' \
    -d '{"protocol":"HTTP","sink":"http://127.0.0.1:9000/hook","types":["shop.order.placed.v1"]}'
  countermand webhook list --admin %[2]s

`

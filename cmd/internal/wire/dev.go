package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/countermand/countermand/platform/broker/kafkabroker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/embedded"
)

// Servers are the Postgres and the broker of a data folder.
type Servers struct {
	Secrets   Secrets
	Databases map[string]string // URL by role
	NATS      *embedded.NATS    // nil: the broker is Kafka
	broker    BrokerConfig
	postgres  *embedded.Postgres // nil: DATABASE_URL names one
}

// ServersConfig says how to start [Servers].
type ServersConfig struct {
	DataDir string
	// AdminURL is a Postgres to use instead of the private one, by a user who may
	// create roles and databases.
	AdminURL string
	// Broker may be Kafka, which is not started here, or else is NATS.
	Broker BrokerConfig
	// Listen opens the embedded broker to other processes on loopback.
	Listen   bool
	Logger   *slog.Logger
	Progress func(string)
}

// StartServers starts the embedded servers of a data folder, or brings them up
// again on what an earlier start left there, and creates and migrates the roles'
// databases.
func StartServers(ctx context.Context, config ServersConfig) (_ *Servers, err error) {
	if err := os.MkdirAll(config.DataDir, 0o755); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	s := &Servers{broker: config.Broker}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if config.AdminURL == "" {
		config.Progress("starting a private PostgreSQL in " + filepath.Join(config.DataDir, "postgres"))
		s.postgres, err = embedded.StartPostgres(ctx, embedded.PostgresConfig{
			DataDir: filepath.Join(config.DataDir, "postgres"), Logger: config.Logger, Progress: config.Progress,
		})
		if err != nil {
			return nil, err
		}
		config.AdminURL = s.postgres.AdminURL()
	}
	if s.Secrets, err = LoadSecrets(config.DataDir); err != nil {
		return nil, err
	}
	if s.Databases, err = CreateDatabases(ctx, config.AdminURL, s.Secrets); err != nil {
		return nil, err
	}
	if config.Broker.Name == Kafka {
		return s, nil
	}
	address := ""
	if config.Listen {
		address = "127.0.0.1:0"
	}
	s.NATS, err = embedded.StartNATS(embedded.NATSConfig{
		StoreDir: filepath.Join(config.DataDir, "nats"), Listen: address, Logger: config.Logger,
	})
	return s, err
}

// BrokerEnvironment returns what tells a process of a role where the broker is,
// beside the environment of this process.
func (s *Servers) BrokerEnvironment() []string {
	if s.NATS == nil {
		return []string{"COUNTERMAND_BROKER=" + Kafka, "KAFKA_REPLICAS=" + strconv.Itoa(s.broker.Kafka.Replicas)}
	}
	return []string{"COUNTERMAND_BROKER=" + NATS, "NATS_URL=" + s.NATS.URL()}
}

// PostgresFailed returns a channel that is closed when the private Postgres ends
// by itself; nil, which blocks for ever, when there is none.
func (s *Servers) PostgresFailed() <-chan struct{} {
	if s.postgres == nil {
		return nil
	}
	return s.postgres.Done()
}

// Stop stops the servers, the broker first.
func (s *Servers) Stop(ctx context.Context) error {
	if s.NATS != nil {
		s.NATS.Stop()
	}
	if s.postgres != nil {
		if err := s.postgres.Stop(ctx); err != nil {
			return fmt.Errorf("stop postgres: %w", err)
		}
	}
	return nil
}

// DevConfig of [StartDev].
type DevConfig struct {
	ServersConfig
	HTTPAddr, AdminAddr string
	RoutesFile          string
	AIFile              string
}

// Dev is every role in one process on embedded servers.
type Dev struct {
	process *Process
	servers *Servers
	conn    *nats.Conn // one of the two
	kafka   *kafkabroker.Broker
	roles   []*Running
	http    string
	open    bool
}

// StartDev starts everything and returns when it serves.
func StartDev(ctx context.Context, config DevConfig) (_ *Dev, err error) {
	d := &Dev{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if d.process, err = NewProcess(ctx, "countermand-dev", Version(), config.Logger); err != nil {
		return nil, err
	}
	if err = d.process.ServeAdmin(ctx, config.AdminAddr); err != nil {
		return nil, err
	}
	if d.servers, err = StartServers(ctx, config.ServersConfig); err != nil {
		return nil, err
	}
	if err = d.connect(config.Broker); err != nil {
		return nil, err
	}
	consumers, err := ConsumerFromEnvironment()
	if err != nil {
		return nil, err
	}
	callEvents, err := AICallEventsFromEnvironment()
	if err != nil {
		return nil, err
	}
	upstreams := make(map[string]string)
	for _, role := range Roles() {
		c := Config{
			Role: role, DatabaseURL: d.servers.Databases[role], Broker: config.Broker, Consumer: consumers, AICallEvents: callEvents, Secret: []byte(d.servers.Secrets.Operations),
			HTTPAddr: "127.0.0.1:0", RoutesFile: config.RoutesFile, AIFile: config.AIFile,
			Lookup: func(name string) (string, bool) {
				if value, ok := os.LookupEnv(name); ok {
					return value, true
				}
				value, ok := upstreams[name]
				return value, ok
			},
		}
		if role == Gateway {
			c.HTTPAddr, c.StoreURL = config.HTTPAddr, d.servers.Databases[GatewayStore]
			if c.Edge, err = EdgeFromEnvironment(); err != nil {
				return nil, err
			}
			if c.Webhooks, err = WebhooksFromEnvironment(true, c.Secret); err != nil {
				return nil, err
			}
			c.Edge.DrainDelay = 0 // there is no load balancer before it
		}
		running, err := Start(ctx, c, d.process)
		if err != nil {
			return nil, err
		}
		d.roles = append(d.roles, running)
		if running.URL != "" {
			upstreams[UpstreamVariable(role)] = running.URL
			d.http, d.open = running.URL, running.Open // the gateway starts last
		}
	}
	return d, nil
}

// connect makes the broker that the roles share, and so share its batches.
func (d *Dev) connect(config BrokerConfig) (err error) {
	if d.servers.NATS == nil {
		config.Kafka.ClientID, config.Kafka.Logger = "countermand-dev", d.process.Logger
		if d.kafka, err = kafkabroker.New(config.Kafka); err != nil {
			return err
		}
		d.process.Broker = d.kafka
		return nil
	}
	if d.conn, err = d.servers.NATS.Connect(nats.Name("countermand-dev")); err != nil {
		return fmt.Errorf("connect to the embedded broker: %w", err)
	}
	// The embedded server stages atomic batches in memory, so they pay early.
	d.process.Broker, err = natsbroker.New(d.conn, natsbroker.Config{AtomicFrom: 4})
	return err
}

// UpstreamVariable returns the variable that tells the gateway where a service is.
func UpstreamVariable(role string) string {
	return map[string]string{
		Order: "COUNTERMAND_ORDER_URL", Payment: "COUNTERMAND_PAYMENT_URL", Inventory: "COUNTERMAND_INVENTORY_URL",
	}[role]
}

// Ready returns where it serves.
func (d *Dev) Ready() Ready {
	return Ready{Event: "ready", HTTP: d.http, Open: d.open, Admin: d.process.AdminURL()}
}

// Wait returns when ctx ends (nil), or when a part of it has failed.
func (d *Dev) Wait(ctx context.Context) error {
	failed := make(chan error, len(d.roles)) // one place each: nobody waits to send
	for _, role := range d.roles {
		go func() { failed <- role.Wait(ctx) }()
	}
	select {
	case <-ctx.Done():
		return nil
	case <-d.servers.PostgresFailed():
		return fmt.Errorf("the private PostgreSQL ended: %w", d.servers.postgres.Err())
	case err := <-failed:
		return err
	}
}

// Stop drains and stops everything in the reverse order of the start.
func (d *Dev) Stop(ctx context.Context) error {
	var errs []error
	if d.process != nil {
		d.process.Health.SetDraining()
	}
	for _, role := range slices.Backward(d.roles) {
		errs = append(errs, role.Stop(ctx))
	}
	if d.conn != nil {
		d.conn.Close()
	}
	if d.kafka != nil {
		d.kafka.Close()
	}
	if d.servers != nil {
		errs = append(errs, d.servers.Stop(ctx))
	}
	if d.process != nil {
		errs = append(errs, d.process.Close(ctx))
	}
	return errors.Join(errs...)
}

package wire

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/fx"

	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/apikey"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/gateway/intake"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/outbox/operate"
	"github.com/countermand/countermand/platform/postgres"
)

// GatewayStore names the gateway's own database among [Servers].Databases: that of the
// role itself is the engine's, to read.
const GatewayStore = "gateway-store"

// gatewayStore is the gateway's own database. Its pool is nil when it has none, and
// then also no API keys.
type gatewayStore struct{ *pgxpool.Pool }

func openStore(l lifecycle, config Config, process *Process) (gatewayStore, error) {
	if config.StoreURL == "" {
		return gatewayStore{}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pool, err := postgres.Open(ctx, postgres.Config{URL: config.StoreURL, ApplicationName: "countermand-" + config.Role, MaxConns: 8})
	if err != nil {
		return gatewayStore{}, fmt.Errorf("the gateway's own database: %w", err)
	}
	if err := postgres.CheckSchema(ctx, pool, migrations(Gateway)...); err != nil && !errors.Is(err, postgres.ErrSchemaNewer) {
		pool.Close()
		return gatewayStore{}, fmt.Errorf("the gateway's own database: %w", err)
	}
	if err := outbox.CheckSequence(ctx, pool); err != nil {
		pool.Close()
		return gatewayStore{}, fmt.Errorf("the gateway's own database: %w", err)
	}
	process.Health.Add("postgres/"+GatewayStore, pool.Ping)
	l.Hooks.Append(fx.StopHook(pool.Close))
	return gatewayStore{pool}, nil
}

// newIntake makes what takes commands while the broker is away, and what publishes them
// from the gateway's own database then; nil when it has none.
func newIntake(l lifecycle, process *Process, store gatewayStore, b broker.Broker) *intake.Intake {
	if store.Pool == nil {
		return nil
	}
	relay := outbox.NewRelay(store.Pool, b, outbox.RelayConfig{Name: Gateway, Logger: process.Logger, Metrics: process.Registry})
	process.Messaging.AddOutbox(operate.New(Gateway, store.Pool, relay))
	in := intake.New(store.Pool, relay.Wake, process.Logger)
	l.run("relay", relay.Run)
	l.run("intake", in.Run)
	return in
}

// keyFinder tells the gateway whose an API key is.
type keyFinder func(ctx context.Context, key string) (gateway.Identity, error)

// newKeys makes what knows the API keys; nil when the gateway has no database of its
// own.
func newKeys(l lifecycle, config Config, process *Process, store gatewayStore) keyFinder {
	if store.Pool == nil {
		return nil
	}
	keys := apikey.NewStore(store.Pool)
	keyring := apikey.NewKeyring(keys, apikey.KeyringConfig{Grace: config.Edge.KeyGrace, Logger: process.Logger})
	l.run("api-keys", keyring.Run)
	admin.RegisterKeys(process.Admin, keys, process.Logger)
	return func(ctx context.Context, text string) (gateway.Identity, error) {
		key, digest, err := keyring.Find(ctx, text)
		if err != nil {
			return gateway.Identity{}, refusedKey(err)
		}
		return identityOf(key, func(ctx context.Context) error {
			_, err := keyring.Check(ctx, digest)
			return err
		}), nil
	}
}

// identityOf returns whom a key speaks for; check is nil while it is taken.
func identityOf(key apikey.Key, check func(context.Context) error) gateway.Identity {
	identity := gateway.Identity{
		Tenant: key.Tenant, Client: key.Client, Key: key.ID, Scopes: key.Scopes,
		Recheck: func(ctx context.Context) bool {
			err := check(ctx)
			return err == nil || errors.Is(err, apikey.ErrUnavailable) // nobody has said that it is not
		},
	}
	if key.ExpiresAt != nil {
		identity.Expires = *key.ExpiresAt
	}
	return identity
}

// refusedKey tells the gateway that a key is at fault, when it is.
func refusedKey(err error) error {
	for _, refused := range []error{apikey.ErrUnknown, apikey.ErrExpired, apikey.ErrRevoked} {
		if errors.Is(err, refused) {
			return fmt.Errorf("%w: %w", gateway.ErrCredentialRefused, refused)
		}
	}
	return err
}

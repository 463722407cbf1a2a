package intake_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/gateway/intake"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

func database(t *testing.T) *pgxpool.Pool {
	t.Helper()
	t.Parallel()
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: embeddedtest.Postgres(t), ApplicationName: "intake", MaxConns: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	err = postgres.Migrate(t.Context(), pool,
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()}, postgres.MigrationSet{Owner: "intake", FS: intake.Migrations()})
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

const commandType = "test.thing.begin.v1"

func command(id string) broker.Message {
	return broker.Message{Topic: events.CommandTopic(commandType), PublishID: id, Event: events.Event{
		ID: id, Source: "/gateway", Type: commandType, Subject: id, PartitionKey: id,
		DataContentType: events.ContentTypeJSON, Data: fmt.Appendf(nil, `{"of":%q}`, id),
	}}
}

func count(t *testing.T, pool *pgxpool.Pool, table string) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), "select count(*) from "+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

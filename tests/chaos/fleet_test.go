package chaos

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/embedded"
	"github.com/countermand/countermand/tests/internal/product"
)

// roles in the order in which they start. The gateway reads the engine's
// database.
var roles = []string{"engine", "order", "payment", "inventory", "gateway"}

// fleet is every role as a process, on a Postgres and a broker of the test's.
type fleet struct {
	databases map[string]string // URL by role
	nats      string
	processes map[string]*product.Process
	logs      map[string]*os.File
}

// startFleet starts every role on a broker in the process of the test.
func startFleet(t *testing.T, dir string) *fleet {
	t.Helper()
	broker, err := embedded.StartNATS(embedded.NATSConfig{StoreDir: filepath.Join(dir, "nats"), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Stop)
	return startFleetOn(t, dir, broker.URL())
}

// startFleetOn starts every role on the NATS server at that URL.
func startFleetOn(t *testing.T, dir, nats string) *fleet {
	t.Helper()
	postgres, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{DataDir: filepath.Join(dir, "postgres")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := postgres.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	f := &fleet{
		databases: make(map[string]string), nats: nats,
		processes: make(map[string]*product.Process), logs: make(map[string]*os.File),
	}
	logs := t.TempDir()
	for _, role := range roles[:4] {
		f.createDatabase(t, postgres.AdminURL(), role)
	}
	f.databases["gateway"] = f.databases["engine"]
	for _, role := range roles {
		f.logs[role] = openLog(t, logs, role)
		f.serve(t, role)
	}
	return f
}

// createDatabase makes the database of a role and its tables, as an operator
// would.
func (f *fleet) createDatabase(t *testing.T, adminURL, role string) {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), adminURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(context.WithoutCancel(t.Context())) }()
	if _, err := admin.Exec(t.Context(), "create database "+pgx.Identifier{"chaos_" + role}.Sanitize()); err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(adminURL)
	if err != nil {
		t.Fatal(err)
	}
	at.Path = "/chaos_" + role
	f.databases[role] = at.String()
	result, err := product.Run(t.Context(), binary, []string{"DATABASE_URL=" + at.String()}, "migrate", role)
	if err != nil || result.Code != 0 {
		t.Fatalf("migrate %s ended %+v: %v", role, result, err)
	}
}

// serve starts a role; engine-2 is another process of the role engine. One that was
// up before gets the address it had.
func (f *fleet) serve(t *testing.T, name string) {
	t.Helper()
	role, _, _ := strings.Cut(name, "-")
	address := "127.0.0.1:0"
	if before := f.processes[name]; before != nil && before.HTTP != "" {
		address = strings.TrimPrefix(before.HTTP, "http://")
	}
	env := []string{
		"DATABASE_URL=" + f.databases[role], "NATS_URL=" + f.nats, "COUNTERMAND_DRAIN_DELAY=none", "COUNTERMAND_SECRET=a secret for the chaos tests only",
		"COUNTERMAND_HTTP_ADDR=" + address, "COUNTERMAND_ADMIN_ADDR=127.0.0.1:0", "COUNTERMAND_LOG_FORMAT=json",
	}
	if role == "gateway" {
		for service, variable := range map[string]string{
			"order": "COUNTERMAND_ORDER_URL", "payment": "COUNTERMAND_PAYMENT_URL", "inventory": "COUNTERMAND_INVENTORY_URL",
		} {
			env = append(env, variable+"="+f.processes[service].HTTP)
		}
	}
	process, err := product.Start(t.Context(), binary, f.logs[name], env, "serve", role)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	f.processes[name] = process
}

// stop lets all roles drain; each must end well.
func (f *fleet) stop(t *testing.T) {
	t.Helper()
	for _, role := range slices.Backward(roles) {
		if err := f.processes[role].Stop(); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	}
}

package wire

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/postgres"
)

// database is one role's own.
type database struct {
	role, name, user string
}

// databases lists who owns what. The gateway reads the engine's as well.
var databases = []database{
	{Engine, "countermand_engine", "countermand_engine"},
	{Order, "shop_order", "shop_order"},
	{Payment, "shop_payment", "shop_payment"},
	{Inventory, "shop_inventory", "shop_inventory"},
	{Gateway, "countermand_gateway", gatewayUser},
	{AI, "countermand_ai", "countermand_ai"},
}

// gatewayUser owns the gateway's database, and may read sagas.
const gatewayUser = "countermand_gateway"

// Secrets are made once per data folder and kept there.
type Secrets struct {
	Operations string            `json:"operations"` // derives operation ids
	Passwords  map[string]string `json:"passwords"`  // by database user
}

// LoadSecrets reads the secrets of a data folder, making them on first use. The
// file is readable by its owner only.
func LoadSecrets(dataDir string) (Secrets, error) {
	path := filepath.Join(dataDir, "secrets.json")
	content, err := os.ReadFile(path)
	var s Secrets
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s = Secrets{Operations: randomHex(), Passwords: make(map[string]string)}
	case err != nil:
		return s, fmt.Errorf("secrets: %w", err)
	default:
		if err := json.Unmarshal(content, &s); err != nil {
			return s, fmt.Errorf("secrets file %s: %w", path, err)
		}
	}
	missing := err != nil
	for _, d := range databases { // a folder of an earlier release lacks some
		if s.Passwords[d.user] == "" {
			s.Passwords[d.user], missing = randomHex(), true
		}
	}
	if !missing {
		return s, nil
	}
	if content, err = json.MarshalIndent(s, "", "  "); err != nil {
		return s, fmt.Errorf("secrets: %w", err)
	}
	// Written beside and renamed, so that a crash leaves no half of it.
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return s, fmt.Errorf("secrets: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return s, fmt.Errorf("secrets: %w", err)
	}
	return s, nil
}

func randomHex() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails, by contract of crypto/rand
	return hex.EncodeToString(b[:])
}

// ErrNoAdministrator means that the server on which databases were to be made cannot be
// reached, or does not let the user in.
var ErrNoAdministrator = errors.New("connect as administrator")

// CreateDatabases creates the roles' databases and users where they are missing,
// migrates all schemas, and returns each role's database URL, and that of the gateway's
// own as [GatewayStore]. adminURL must be a
// postgres:// URL of a user who may create roles and databases.
func CreateDatabases(ctx context.Context, adminURL string, secrets Secrets) (map[string]string, error) {
	admin, err := pgx.Connect(ctx, adminURL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAdministrator, err)
	}
	defer func() { _ = admin.Close(ctx) }()
	for _, d := range databases {
		if err := createUser(ctx, admin, d.user, secrets.Passwords[d.user]); err != nil {
			return nil, err
		}
	}
	urls := make(map[string]string)
	for _, d := range databases {
		if err := createDatabase(ctx, admin, d); err != nil {
			return nil, err
		}
		if urls[d.role], err = withDatabase(adminURL, d.name, d.user, secrets.Passwords[d.user]); err != nil {
			return nil, err
		}
		if err := Migrate(ctx, d.role, urls[d.role]); err != nil {
			return nil, err
		}
	}
	if err := grantReading(ctx, urls[Engine]); err != nil {
		return nil, err
	}
	urls[GatewayStore] = urls[Gateway]
	urls[Gateway], err = withDatabase(adminURL, databases[0].name, gatewayUser, secrets.Passwords[gatewayUser])
	return urls, err
}

func createUser(ctx context.Context, admin *pgx.Conn, user, password string) error {
	var exists bool
	if err := admin.QueryRow(ctx, "select exists (select from pg_roles where rolname = $1)", user).Scan(&exists); err != nil {
		return fmt.Errorf("create user %s: %w", user, err)
	}
	verb := "create"
	if exists {
		verb = "alter"
	}
	// The password is hexadecimal, so it needs no quoting beyond the quotes.
	_, err := admin.Exec(ctx, fmt.Sprintf("%s role %s login password '%s'", verb, pgx.Identifier{user}.Sanitize(), password))
	if err != nil {
		return fmt.Errorf("create user %s: %w", user, err)
	}
	return nil
}

func createDatabase(ctx context.Context, admin *pgx.Conn, d database) error {
	var exists bool
	if err := admin.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", d.name).Scan(&exists); err != nil {
		return fmt.Errorf("create database %s: %w", d.name, err)
	}
	if exists {
		return nil
	}
	name, user := pgx.Identifier{d.name}.Sanitize(), pgx.Identifier{d.user}.Sanitize()
	// An administrator who is no superuser must be a member of the owner's role.
	if _, err := admin.Exec(ctx, fmt.Sprintf("grant %s to current_user", user)); err != nil {
		return fmt.Errorf("create database %s: %w", d.name, err)
	}
	if _, err := admin.Exec(ctx, fmt.Sprintf("create database %s owner %s", name, user)); err != nil {
		return fmt.Errorf("create database %s: %w", d.name, err)
	}
	if _, err := admin.Exec(ctx, fmt.Sprintf("revoke all on database %s from public", name)); err != nil {
		return fmt.Errorf("create database %s: %w", d.name, err)
	}
	return nil
}

// grantReading lets the gateway read sagas. The engine's user owns the tables,
// so it can grant; a gateway user that does not exist is somebody else's set-up.
func grantReading(ctx context.Context, engineURL string) error {
	pool, err := postgres.Open(ctx, postgres.Config{URL: engineURL, ApplicationName: "migrate"})
	if err != nil {
		return fmt.Errorf("grant reading to the gateway: %w", err)
	}
	defer pool.Close()
	user := pgx.Identifier{gatewayUser}.Sanitize()
	for _, statement := range []string{
		"grant connect on database " + pgx.Identifier{databases[0].name}.Sanitize() + " to " + user,
		"grant usage on schema public to " + user,
		"grant select on saga, saga_live, saga_log, saga_attribute, saga_definition to " + user,
	} {
		if _, err := pool.Exec(ctx, statement); err != nil {
			return fmt.Errorf("grant reading to the gateway: %w", err)
		}
	}
	return nil
}

// withDatabase returns base with another database, user and password.
func withDatabase(base, name, user, password string) (string, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return "", errors.New("the administrator's DATABASE_URL must have the form postgres://user:password@host:port/database")
	}
	u.User, u.Path = url.UserPassword(user, password), "/"+name
	return u.String(), nil
}

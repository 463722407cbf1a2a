package postgres_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/postgres"
)

// set returns a migration set of those files, given as name and SQL by turns.
func set(owner string, files ...string) postgres.MigrationSet {
	fs := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		fs["migrations/"+files[i]] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + files[i+1] + ";\n")}
	}
	return postgres.MigrationSet{Owner: owner, FS: fs}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	pool := open(t, postgres.Config{})
	ctx := t.Context()
	first := set("shop", "0001_create_note.sql", `create table note (id int primary key)`)
	second := set("shop",
		"0001_create_note.sql", `create table note (id int primary key)`,
		"0002_add_body.sql", `alter table note add column body text`)
	other := set("other", "0001_create_other.sql", `create table other (id int primary key)`)

	err := postgres.CheckSchema(ctx, pool, first, other)
	if !errors.Is(err, postgres.ErrSchemaOlder) || !strings.Contains(err.Error(), `"countermand migrate"`) ||
		!strings.Contains(err.Error(), "shop lacks 1 of 1") || !strings.Contains(err.Error(), "other lacks 1 of 1") {
		t.Errorf("check of an empty database: %v", err)
	}
	for range 2 { // the second changes nothing
		if err := postgres.Migrate(ctx, pool, first, other); err != nil {
			t.Fatal(err)
		}
		if err := postgres.CheckSchema(ctx, pool, first, other); err != nil {
			t.Fatal(err)
		}
	}
	if err := postgres.CheckSchema(ctx, pool, second); !errors.Is(err, postgres.ErrSchemaOlder) ||
		!strings.Contains(err.Error(), "0002_add_body.sql") {
		t.Errorf("check with a migration pending: %v", err)
	}
	status, err := postgres.MigrationStatus(ctx, pool, second)
	if err != nil {
		t.Fatal(err)
	}
	if len(status) != 2 || status[0].Name != "0001_create_note.sql" || time.Since(status[0].AppliedAt).Abs() > time.Minute ||
		!status[1].AppliedAt.IsZero() {
		t.Errorf("status: %+v", status)
	}
	if err := postgres.Migrate(ctx, pool, second); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `insert into note (id, body) values (1, 'x')`)

	for name, err := range map[string]error{
		"check":   postgres.CheckSchema(ctx, pool, other, first),
		"migrate": postgres.Migrate(ctx, pool, other, first),
	} {
		if !errors.Is(err, postgres.ErrSchemaNewer) || errors.Is(err, postgres.ErrSchemaOlder) ||
			!strings.Contains(err.Error(), "countermand migrate") {
			t.Errorf("%s by an older binary: %v", name, err)
		}
	}
	status, err = postgres.MigrationStatus(ctx, pool, first)
	if err != nil {
		t.Fatal(err)
	}
	if len(status) != 2 || status[1].Name != "" || status[1].Version != 2 || status[1].AppliedAt.IsZero() {
		t.Errorf("status with an unknown version: %+v", status)
	}
}

func TestMigrateGoesOnAfterAFailure(t *testing.T) {
	t.Parallel()
	pool := open(t, postgres.Config{StatementTimeout: time.Second})
	ctx := t.Context()
	err := postgres.Migrate(ctx, pool, set("shop",
		"0001_create_note.sql", `create table note (id int primary key)`,
		"0002_broken.sql", "create table half (id int);\nselect nonsense"))
	if err == nil || !strings.Contains(err.Error(), "0002_broken.sql") || !strings.Contains(err.Error(), "nonsense") {
		t.Fatalf("broken migration: %v", err)
	}
	// The slow one outlasts the statement timeout, which must not bind migrations.
	repaired := set("shop",
		"0001_create_note.sql", `create table note (id int primary key)`,
		"0002_broken.sql", `create table half (id int)`,
		"0003_slow.sql", `select pg_sleep(1.5)`,
		"0004_index.sql", "-- +goose NO TRANSACTION\ncreate index concurrently half_by_id on half (id)")
	if err := postgres.Migrate(ctx, pool, repaired); err != nil {
		t.Fatal(err)
	}
	if err := postgres.CheckSchema(ctx, pool, repaired); err != nil {
		t.Error(err)
	}
}

// Many processes start at once on an empty database. The concurrent index build
// is there because it deadlocks with starters that wait inside a lock.
func TestMigrateConcurrently(t *testing.T) {
	t.Parallel()
	url := embeddedtest.Postgres(t)
	sets := []postgres.MigrationSet{
		set("shop",
			"0001_create_note.sql", `create table note (id int primary key, body text)`,
			"0002_index.sql", "-- +goose NO TRANSACTION\ncreate index concurrently note_by_body on note (body)",
			"0003_slow.sql", `select pg_sleep(0.3)`),
		set("other", "0001_create_other.sql", `create table other (id int primary key)`),
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var starters sync.WaitGroup
	for range 6 {
		starters.Go(func() {
			pool, err := postgres.Open(ctx, postgres.Config{URL: url})
			if err != nil {
				t.Error(err)
				return
			}
			defer pool.Close()
			if err := postgres.Migrate(ctx, pool, sets...); err != nil {
				t.Error(err)
			}
		})
	}
	starters.Wait()
	pool := open(t, postgres.Config{URL: url})
	if err := postgres.CheckSchema(ctx, pool, sets...); err != nil {
		t.Error(err)
	}
}

func TestMigrationSetRules(t *testing.T) {
	t.Parallel()
	pool := open(t, postgres.Config{})
	down := set("shop", "0001_create.sql", "select 1;\n-- +goose Down\nselect 2")
	for name, test := range map[string]struct {
		set  postgres.MigrationSet
		want string
	}{
		"owner":       {set("Shop", "0001_create.sql", `select 1`), "owner"},
		"no files":    {postgres.MigrationSet{Owner: "shop", FS: fstest.MapFS{}}, "migrations"},
		"file name":   {set("shop", "1_create.sql", `select 1`), "0001_create_outbox.sql"},
		"gap":         {set("shop", "0001_create.sql", `select 1`, "0003_more.sql", `select 1`), "number 0002"},
		"same number": {set("shop", "0001_create.sql", `select 1`, "0001_more.sql", `select 1`), "number 0002"},
		"way down":    {down, "no way down"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := postgres.Migrate(t.Context(), pool, test.set)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one about %q", err, test.want)
			}
		})
	}
}

package embeddedtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// databases are the empty databases on one server that no test uses. Making one
// copies 7 MB of catalogue, which is more work than most tests do, so that of a test
// that has ended is emptied and given to the next one, under another name: whoever
// still has the old URL reaches nobody's data.
type databases struct {
	mu   sync.Mutex
	free []string
}

// take returns the name of an empty database.
func (d *databases) take(ctx context.Context, admin string) (string, error) {
	d.mu.Lock()
	if last := len(d.free) - 1; last >= 0 {
		name := d.free[last]
		d.free = d.free[:last]
		d.mu.Unlock()
		return name, nil
	}
	d.mu.Unlock()
	name := newName()
	// Nobody can be connected to template0 and so be in the way of a copy.
	if err := adminExec(ctx, admin, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return name, nil
}

// giveBack ends all connections to the database. One that cannot be made as good as
// new is dropped.
func (d *databases) giveBack(ctx context.Context, admin, name string) error {
	fresh := newName()
	if err := renameAndEmpty(ctx, admin, name, fresh); err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.free = append(d.free, fresh)
		return nil
	}
	return errors.Join(drop(ctx, admin, name), drop(ctx, admin, fresh))
}

// dropAll drops what is free.
func (d *databases) dropAll(ctx context.Context, admin string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	for _, name := range d.free {
		err = errors.Join(err, drop(ctx, admin, name))
	}
	d.free = nil
	return err
}

func drop(ctx context.Context, admin, name string) error {
	if err := adminExec(ctx, admin, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

func renameAndEmpty(ctx context.Context, admin, name, fresh string) error {
	database, err := withDatabase(admin, fresh)
	if err != nil {
		return err
	}
	// One statement at a time, for ALTER DATABASE must see that the others are gone,
	// and those that are told to go take a moment.
	if err := adminExec(ctx, admin, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false",
		"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '"+name+"'",
		"ALTER DATABASE "+name+" RENAME TO "+fresh,
		"ALTER DATABASE "+fresh+" ALLOW_CONNECTIONS true"); err != nil {
		return err
	}
	return adminExec(ctx, database, emptyDatabase)
}

// emptyDatabase drops everything that is in a schema, and refuses a database in which
// more than that was changed.
const emptyDatabase = `
DO $$
DECLARE name text;
BEGIN
	IF EXISTS (SELECT FROM pg_database d JOIN pg_db_role_setting s ON s.setdatabase = d.oid WHERE d.datname = current_database())
		OR EXISTS (SELECT FROM pg_database WHERE datname = current_database() AND datacl IS NOT NULL)
		OR EXISTS (SELECT FROM pg_extension WHERE extname <> 'plpgsql')
		OR EXISTS (SELECT FROM pg_default_acl) OR EXISTS (SELECT FROM pg_event_trigger)
		OR EXISTS (SELECT FROM pg_publication) OR EXISTS (SELECT FROM pg_foreign_data_wrapper)
		OR EXISTS (SELECT FROM pg_largeobject_metadata)
		OR EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database())
		OR EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database())
	THEN
		RAISE EXCEPTION 'more was changed than its schemas';
	END IF;
	FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
		EXECUTE format('DROP SCHEMA %I CASCADE', name);
	END LOOP;
	CREATE SCHEMA public;
	IF current_setting('server_version_num')::int >= 150000 THEN
		ALTER SCHEMA public OWNER TO pg_database_owner;
		GRANT USAGE ON SCHEMA public TO PUBLIC;
	ELSE
		GRANT ALL ON SCHEMA public TO PUBLIC;
	END IF;
END $$`

func newName() string { return "test_" + strings.ToLower(rand.Text()) }

func adminExec(ctx context.Context, admin string, statements ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	for _, statement := range statements {
		if _, err = conn.Exec(ctx, statement); err != nil {
			break
		}
	}
	// A statement that went well is not undone by a connection that does not
	// close well.
	_ = conn.Close(ctx)
	return err
}

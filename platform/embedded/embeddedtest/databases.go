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

// databases are those on one server that no test uses. Making one copies 7 MB of
// catalogue and its migrations take longer than most tests do, so that of a test that
// has ended is cleaned and given to the next one that wants the same tables, under
// another name: whoever still has the old URL reaches nobody's data.
type databases struct {
	mu   sync.Mutex
	free map[string][]database // by what made their tables; "" are empty
}

// database is one with the tables that somebody made.
type database struct {
	name   string
	tables string // what made them; "" when there are none
	made   state  // after that
}

// take returns an empty database, or one as create leaves it, for which tables stands.
func (d *databases) take(ctx context.Context, admin, tables string, create func(ctx context.Context, url string) error) (database, error) {
	if db, ok := d.pop(tables); ok {
		return db, nil
	}
	db, ok := d.pop("")
	if !ok {
		db.name = newName()
		// Nobody can be connected to template0 and so be in the way of a copy.
		if err := adminExec(ctx, admin, "CREATE DATABASE "+db.name+" TEMPLATE template0"); err != nil {
			return database{}, fmt.Errorf("create database %s: %w", db.name, err)
		}
	}
	if tables == "" {
		return db, nil
	}
	url, err := withDatabase(admin, db.name)
	if err == nil {
		err = create(ctx, url)
	}
	if err == nil {
		db.tables = tables
		err = within(ctx, url, func(ctx context.Context, conn *pgx.Conn) (err error) {
			db.made, err = look(ctx, conn)
			return err
		})
	}
	if err != nil {
		return database{}, errors.Join(fmt.Errorf("make the tables of %s: %w", db.name, err), drop(context.WithoutCancel(ctx), admin, db.name))
	}
	return db, nil
}

func (d *databases) pop(tables string) (database, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	free := d.free[tables]
	last := len(free) - 1
	if last < 0 {
		return database{}, false
	}
	d.free[tables] = free[:last]
	return free[last], true
}

// giveBack ends all connections to the database. One that cannot be made as good as
// new is dropped.
func (d *databases) giveBack(ctx context.Context, admin string, db database) error {
	old := db.name
	db.name = newName()
	err := rename(ctx, admin, old, db.name)
	if err == nil {
		err = db.clean(ctx, admin)
	}
	if err != nil {
		return errors.Join(drop(ctx, admin, old), drop(ctx, admin, db.name))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.free == nil {
		d.free = make(map[string][]database)
	}
	d.free[db.tables] = append(d.free[db.tables], db)
	return nil
}

// dropAll drops what is free.
func (d *databases) dropAll(ctx context.Context, admin string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	for _, free := range d.free {
		for _, db := range free {
			err = errors.Join(err, drop(ctx, admin, db.name))
		}
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

func rename(ctx context.Context, admin, name, fresh string) error {
	// One statement at a time, for ALTER DATABASE must see that the others are gone,
	// and those that are told to go take a moment.
	return adminExec(ctx, admin, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false",
		"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '"+name+"'",
		"ALTER DATABASE "+name+" RENAME TO "+fresh,
		"ALTER DATABASE "+fresh+" ALLOW_CONNECTIONS true")
}

func newName() string { return "test_" + strings.ToLower(rand.Text()) }

func adminExec(ctx context.Context, admin string, statements ...string) error {
	return within(ctx, admin, func(ctx context.Context, conn *pgx.Conn) error {
		for _, statement := range statements {
			if _, err := conn.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
}

// within gives a connection to use for at most a minute.
func within(ctx context.Context, url string, use func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	err = use(ctx, conn)
	// A statement that went well is not undone by a connection that does not
	// close well.
	_ = conn.Close(ctx)
	return err
}

package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// MigrationSet is the schema of one package: the files migrations/*.sql of FS,
// usually embedded beside the code that owns the tables. A file is named
// 0001_what_it_does.sql, numbered from 1 without a gap, holds one
// "-- +goose Up" section and no other, and is never changed once released.
type MigrationSet struct {
	// Owner names the set in lower case; its history is kept in the table
	// countermand_migration_<owner>. Sets of several owners share a database.
	Owner string
	FS    fs.FS
}

// Migration is one step of a set and whether a database has it.
type Migration struct {
	Owner   string
	Version int64
	// Name is the name of the file. It is empty when the database holds a version
	// that this binary does not know.
	Name string
	// AppliedAt is when the database got it; zero while it is pending.
	AppliedAt time.Time
}

// Errors of a schema that does not fit the binary; both may be wrapped at once
// when several sets are checked.
var (
	// ErrSchemaOlder means the database lacks migrations of this binary.
	ErrSchemaOlder = errors.New("schema is older than this binary")
	// ErrSchemaNewer means the database has migrations this binary does not know.
	ErrSchemaNewer = errors.New("schema is newer than this binary")
)

var (
	ownerPattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}$`)
	filePattern  = regexp.MustCompile(`^([0-9]{4})_[a-z0-9_]+\.sql$`)
)

func (s MigrationSet) table() string { return "countermand_migration_" + s.Owner }

// files returns the migrations of the set in order, or what breaks its rules.
func (s MigrationSet) files() ([]Migration, error) {
	if !ownerPattern.MatchString(s.Owner) {
		return nil, fmt.Errorf("migration owner %q: want lower-case letters, digits and underscores", s.Owner)
	}
	entries, err := fs.ReadDir(s.FS, "migrations")
	if err != nil {
		return nil, fmt.Errorf("migrations of %s: %w", s.Owner, err)
	}
	files := make([]Migration, 0, len(entries))
	for _, entry := range entries {
		match := filePattern.FindStringSubmatch(entry.Name())
		if match == nil {
			return nil, fmt.Errorf("migration %s of %s: want a name such as 0001_create_outbox.sql", entry.Name(), s.Owner)
		}
		version, err := strconv.ParseInt(match[1], 10, 64)
		if err != nil || version != int64(len(files))+1 {
			return nil, fmt.Errorf("migration %s of %s: want number %04d here", entry.Name(), s.Owner, len(files)+1)
		}
		text, err := fs.ReadFile(s.FS, "migrations/"+entry.Name())
		if err != nil {
			return nil, fmt.Errorf("migration %s of %s: %w", entry.Name(), s.Owner, err)
		}
		if !strings.Contains(string(text), "-- +goose Up") || strings.Contains(string(text), "-- +goose Down") {
			return nil, fmt.Errorf("migration %s of %s: want a %q section and no way down", entry.Name(), s.Owner, "-- +goose Up")
		}
		files = append(files, Migration{Owner: s.Owner, Version: version, Name: entry.Name()})
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("migrations of %s: there are none", s.Owner)
	}
	return files, nil
}

// MigrationStatus returns every migration of the sets and every unknown one the
// database has, in order. It reads only, and takes no lock.
func MigrationStatus(ctx context.Context, pool *pgxpool.Pool, sets ...MigrationSet) ([]Migration, error) {
	var all []Migration
	for _, set := range sets {
		one, err := set.status(ctx, pool)
		if err != nil {
			return nil, err
		}
		all = append(all, one...)
	}
	return all, nil
}

func (s MigrationSet) status(ctx context.Context, pool *pgxpool.Pool) ([]Migration, error) {
	status, err := s.files()
	if err != nil {
		return nil, err
	}
	known := len(status)
	applied, err := s.applied(ctx, pool)
	if err != nil {
		return nil, fmt.Errorf("migration status of %s: %w", s.Owner, err)
	}
	for version, at := range applied {
		if version <= int64(known) {
			status[version-1].AppliedAt = at
		} else {
			status = append(status, Migration{Owner: s.Owner, Version: version, AppliedAt: at})
		}
	}
	slices.SortFunc(status, func(a, b Migration) int { return cmp.Compare(a.Version, b.Version) })
	return status, nil
}

// applied returns when each version was applied; none when the table is not there.
func (s MigrationSet) applied(ctx context.Context, pool *pgxpool.Pool) (map[int64]time.Time, error) {
	var exists bool
	if err := pool.QueryRow(ctx, `select to_regclass($1) is not null`, s.table()).Scan(&exists); err != nil || !exists {
		return nil, err
	}
	rows, err := pool.Query(ctx, `
		select version_id, tstamp
		from `+s.table()+`
		where version_id > 0
		and is_applied`)
	if err != nil {
		return nil, err
	}
	applied := make(map[int64]time.Time)
	var version int64
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&version, &at}, func() error {
		applied[version] = at
		return nil
	})
	return applied, err
}

// CheckSchema reports, without changing anything, every set whose schema does
// not fit this binary: the error wraps [ErrSchemaOlder], [ErrSchemaNewer] or
// both, and says what to do. A caller that migrates ahead of a rolling deploy
// may choose to live with ErrSchemaNewer.
func CheckSchema(ctx context.Context, pool *pgxpool.Pool, sets ...MigrationSet) error {
	var errs []error
	for _, set := range sets {
		status, err := set.status(ctx, pool)
		if err != nil {
			return err
		}
		errs = append(errs, checkStatus(set.Owner, status))
	}
	return errors.Join(errs...)
}

func checkStatus(owner string, status []Migration) error {
	var pending []string
	var known, newest int64
	for _, migration := range status {
		switch {
		case migration.Name == "":
			newest = migration.Version
		case migration.AppliedAt.IsZero():
			pending = append(pending, migration.Name)
			known = migration.Version
		default:
			known = migration.Version
		}
	}
	var errs []error
	if len(pending) > 0 {
		errs = append(errs, fmt.Errorf("%w: %s lacks %d of %d migrations, the first is %s: run \"countermand migrate\"",
			ErrSchemaOlder, owner, len(pending), known, pending[0]))
	}
	if newest > 0 {
		errs = append(errs, fmt.Errorf("%w: %s is at version %d and this binary knows up to %d: run the release whose \"countermand migrate\" made it, or a later one",
			ErrSchemaNewer, owner, newest, known))
	}
	return errors.Join(errs...)
}

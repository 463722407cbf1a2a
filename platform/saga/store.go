package saga

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of the engine.
func Migrations() fs.FS { return migrations }

// SessionParams are settings for the connections of an engine's pool. Its
// statements look rows up by primary key. On a table that grows faster than it is
// analysed the planner would rather scan it, and plan each statement anew.
func SessionParams() map[string]string {
	return map[string]string{
		"plan_cache_mode": "force_generic_plan",
		"enable_seqscan":  "off", "enable_hashjoin": "off", "enable_mergejoin": "off",
	}
}

// stored is a saga with the revision it was read at; revision 0 is one that does
// not exist yet.
type stored struct {
	Instance
	revision   int64
	cached     bool  // it may have been written by another engine since
	unreadable error // the document cannot be read, so there is no Instance
}

// queryer runs a query: a pool or a connection.
type queryer interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// load reads those sagas, without locking them, and the database's clock.
func load(ctx context.Context, db queryer, ids []uuid.UUID) (found map[uuid.UUID]*stored, now time.Time, err error) {
	rows, err := db.Query(ctx, `
		select clock.now, saga.id, saga.revision, saga.document
		from (select clock_timestamp() as now) as clock
		left join saga on saga.id = any($1)`, ids)
	if err != nil {
		return nil, now, fmt.Errorf("load sagas: %w", err)
	}
	found = make(map[uuid.UUID]*stored, len(ids))
	var (
		id       *uuid.UUID // nil: none of them exists
		revision *int64
		document []byte
	)
	_, err = pgx.ForEachRow(rows, []any{&now, &id, &revision, &document}, func() error {
		if id == nil {
			return nil
		}
		found[*id] = decode(*id, *revision, document)
		return nil
	})
	if err != nil {
		return nil, now, fmt.Errorf("load sagas: %w", err)
	}
	return found, now.UTC(), nil
}

// decode reads a saga. What is wrong with it is told when it is its turn: the
// others go on.
func decode(id uuid.UUID, revision int64, document []byte) *stored {
	s := &stored{revision: revision}
	if err := json.Unmarshal(document, &s.Instance); err != nil {
		s.Instance, s.unreadable = Instance{ID: id.String()}, fmt.Errorf("document of saga %s: %w", id, err)
	}
	return s
}

// change is a saga as it was read and as it is to be.
type change struct {
	id       uuid.UUID
	before   int64
	instance Instance
	armed    time.Time // when the timer row was due before
	fired    bool      // the timer row has been due and must be moved or deleted
}

// queueChanges adds the statements that store changes. Each is guarded by the
// revision it was read at; see [isConflict].
func queueChanges(batch *pgx.Batch, changes []change) error {
	type columns struct {
		ids         []uuid.UUID
		definitions []string
		versions    []int32
		statuses    []string
		revisions   []int64
		documents   [][]byte
		created     []time.Time
		updated     []time.Time
	}
	var (
		fresh, known columns
		set          struct {
			ids []uuid.UUID
			due []time.Time
		}
		unset []uuid.UUID
	)
	for i := range changes {
		in := &changes[i].instance
		due := in.due()
		switch {
		case due.IsZero():
			in.Armed = time.Time{}
			if !changes[i].armed.IsZero() || changes[i].fired {
				unset = append(unset, changes[i].id)
			}
		case changes[i].fired || changes[i].armed.IsZero() || due.Before(changes[i].armed):
			in.Armed = due
			set.ids, set.due = append(set.ids, changes[i].id), append(set.due, due)
		}
		document, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode saga %s: %w", in.ID, err)
		}
		c := &known
		if changes[i].before == 0 {
			c = &fresh
		}
		c.ids, c.definitions = append(c.ids, changes[i].id), append(c.definitions, in.Name)
		c.versions, c.statuses = append(c.versions, int32(in.Version)), append(c.statuses, string(in.Status))
		c.revisions, c.documents = append(c.revisions, changes[i].before), append(c.documents, document)
		c.created, c.updated = append(c.created, in.CreatedAt), append(c.updated, in.UpdatedAt)
	}
	// Both sorted by id, so that two engines never wait for each other in a circle.
	if len(fresh.ids) > 0 {
		batch.Queue(`
			insert into saga (id, definition, version, status, revision, document, created_at, updated_at)
			select id, definition, version, status, 1, document, created_at, updated_at
			from unnest($1::uuid[], $2::text[], $3::integer[], $4::text[], $5::bytea[], $6::timestamptz[], $7::timestamptz[])
				as s (id, definition, version, status, document, created_at, updated_at)
			order by id`,
			fresh.ids, fresh.definitions, fresh.versions, fresh.statuses, fresh.documents, fresh.created, fresh.updated)
	}
	if len(known.ids) > 0 {
		batch.Queue(`
			with changed as (
				update saga set status = c.status, revision = c.revision + 1, document = c.document, updated_at = c.updated_at
				from (
					select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bytea[], $5::timestamptz[])
						as c (id, status, revision, document, updated_at) order by id
				) as c
				where saga.id = c.id and saga.revision = c.revision
				returning 1
			)
			select saga_expect(count(*), $6) from changed`,
			known.ids, known.statuses, known.revisions, known.documents, known.updated, len(known.ids))
	}
	if len(set.ids) > 0 {
		batch.Queue(`
			insert into saga_timer (saga_id, due_at) select * from unnest($1::uuid[], $2::timestamptz[])
			on conflict (saga_id) do update set due_at = excluded.due_at`, set.ids, set.due)
	}
	if len(unset) > 0 {
		batch.Queue("delete from saga_timer where saga_id = any($1)", unset)
	}
	return nil
}

// isConflict reports that a saga was changed, or begun, by another engine since
// it was read. Nothing was written: read it again and decide anew.
func isConflict(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "CM409" || pg.Code == "23505" && pg.ConstraintName == "saga_pkey")
}

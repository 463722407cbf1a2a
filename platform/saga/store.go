package saga

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
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

// stored is a saga as it stands in the database; revision 0 is one that does not
// exist yet.
type stored struct {
	Instance
	revision   int64
	snapshot   int64
	hash       []byte
	live       bool      // it has a row in saga_live
	armed      time.Time // when that is due
	cached     bool      // it may have been written by another engine since
	unreadable error     // the history cannot be read, so there is no Instance
}

// queryer runs a query: a pool, a connection or a transaction.
type queryer interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// columnsOf is what [scanner] reads of a saga s, with l of saga_live beside it.
const columnsOf = `s.id, s.revision, s.snapshot, s.hash, l.saga_id is not null, l.due_at,
	(select array_agg(g.entry order by g.seq) from saga_log as g where g.saga_id = s.id and g.day = s.day and g.seq >= s.snapshot)`

// scanner takes the columns of columnsOf.
type scanner struct {
	id       *uuid.UUID // nil: there is none
	revision *int64
	snapshot *int64
	hash     []byte
	live     *bool
	due      *time.Time
	entries  [][]byte
}

func (s *scanner) targets() []any {
	return []any{&s.id, &s.revision, &s.snapshot, &s.hash, &s.live, &s.due, &s.entries}
}

// saga returns what was read. What is wrong with it is told when it is its turn:
// the others go on.
func (s *scanner) saga() *stored {
	out := &stored{revision: *s.revision, snapshot: *s.snapshot, hash: slices.Clone(s.hash), live: *s.live}
	if s.due != nil {
		out.armed = s.due.UTC()
	}
	for _, entry := range s.entries {
		if _, _, err := applyEntry(&out.Instance, slices.Clone(entry)); err != nil {
			out.Instance, out.unreadable = Instance{ID: s.id.String()}, fmt.Errorf("saga %s: %w", s.id, err)
			return out
		}
	}
	if int64(len(s.entries)) != out.revision-max(out.snapshot, 1)+1 {
		out.unreadable = fmt.Errorf("saga %s: %w: %d entries of %d are there", s.id, errEntry, len(s.entries), out.revision-max(out.snapshot, 1)+1)
	}
	return out
}

// load reads those sagas, without locking them, and the database's clock.
func load(ctx context.Context, db queryer, ids []uuid.UUID) (found map[uuid.UUID]*stored, now time.Time, err error) {
	rows, err := db.Query(ctx, `
		select clock.now, `+columnsOf+`
		from (select clock_timestamp() as now) as clock
		left join saga as s on s.id = any($1)
		left join saga_live as l on l.saga_id = s.id`, plain(ids))
	if err != nil {
		return nil, now, fmt.Errorf("load sagas: %w", err)
	}
	found = make(map[uuid.UUID]*stored, len(ids))
	var row scanner
	_, err = pgx.ForEachRow(rows, append([]any{&now}, row.targets()...), func() error {
		if row.id != nil {
			found[*row.id] = row.saga()
		}
		return nil
	})
	if err != nil {
		return nil, now, fmt.Errorf("load sagas: %w", err)
	}
	return found, now.UTC(), nil
}

// plain returns ids in the type that the driver encodes without a detour.
func plain(ids []uuid.UUID) [][16]byte {
	out := make([][16]byte, len(ids))
	for i, id := range ids {
		out[i] = id
	}
	return out
}

// change is a saga as it was read and as it is to be.
type change struct {
	id         uuid.UUID
	before     stored
	after      stored // but for live and armed
	entries    [][]byte
	fired      bool          // the timer has been due and must be moved
	patience   time.Duration // the shortest pause of any step of its definition
	locks      bool          // it may hold locks
	attributes map[string]string
	known      map[string]string // attributes before
}

// tenantAttribute is the attribute by which the sagas of a tenant are found. No
// definition can set it: its names begin with a letter.
const tenantAttribute = "_tenant"

// append takes a transition in.
func (c *change) append(next Instance, cause Cause, now time.Time) error {
	base := &c.after.Instance
	snapshot := c.after.revision > 0 && c.after.revision-max(c.after.snapshot, 1) >= snapshotEvery
	if snapshot {
		base = &Instance{}
	}
	entry, err := encodeEntry(base, &next, cause, now)
	if err != nil {
		return fmt.Errorf("encode saga %s: %w", c.id, err)
	}
	c.entries = append(c.entries, entry)
	c.after.Instance, c.after.hash = next, chain(c.after.hash, entry)
	if c.after.revision++; snapshot {
		c.after.snapshot = c.after.revision
	}
	return nil
}

// snapshotEvery bounds how many entries are read to load a saga.
const snapshotEvery = 64

// waits returns the names of the steps that a saga waits for, as operators search
// for them.
func (in *Instance) waits() string {
	if in.Status.Final() {
		return "" // one that was abandoned leaves steps as they stood
	}
	var names []string
	for i := range in.Steps {
		if waiting, _ := in.Steps[i].awaits(); waiting && in.Steps[i].Kind != string(kindForEach) && in.Steps[i].Kind != string(kindDecide) {
			name, _, _ := strings.Cut(in.Steps[i].Name, "[")
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return strings.Join(names, " ")
}

// queueChanges adds the statements that store changes. Each is guarded by the
// revision it was read at; see [isConflict].
func queueChanges(batch *pgx.Batch, changes []change) {
	type columns struct {
		ids                           [][16]byte
		definitions                   []string
		versions                      []int32
		statuses, waits, steps, codes []string
		befores, revisions, snapshots []int64
		hashes                        [][]byte
		created, updated              []time.Time
	}
	var (
		fresh, known columns
		log          struct {
			ids     [][16]byte
			seqs    []int64
			days    []time.Time
			entries [][]byte
		}
		begun, set struct {
			ids []([16]byte)
			due []*time.Time
		}
		unset      [][16]byte
		ended      [][16]byte // of those that may hold locks
		attributes struct {
			ids           [][16]byte
			names, values []string
		}
	)
	for i := range changes {
		ch := &changes[i]
		in := &ch.after.Instance
		ch.after.live, ch.after.armed = ch.before.live, ch.before.armed
		due := in.Due()
		if early := in.CreatedAt.Add(ch.patience); !ch.before.live && ch.patience > 0 && early.Before(due) {
			due = early // so that no later step has to move it
		}
		switch {
		case in.Status.Final():
			if ch.before.live {
				unset = append(unset, ch.id)
			}
			if ch.locks {
				ended = append(ended, ch.id)
			}
			ch.after.live, ch.after.armed = false, time.Time{}
		case !ch.before.live, ch.fired, !due.IsZero() && (ch.before.armed.IsZero() || due.Before(ch.before.armed)):
			ch.after.live, ch.after.armed = true, due
			live := &set
			if ch.before.revision == 0 {
				live = &begun
			}
			live.ids = append(live.ids, ch.id)
			if due.IsZero() {
				live.due = append(live.due, nil)
			} else {
				live.due = append(live.due, &due)
			}
		}
		day := in.CreatedAt.UTC().Truncate(24 * time.Hour)
		for k, entry := range ch.entries {
			log.ids, log.days = append(log.ids, ch.id), append(log.days, day)
			log.seqs, log.entries = append(log.seqs, ch.before.revision+int64(k)+1), append(log.entries, entry)
		}
		for _, name := range slices.Sorted(maps.Keys(ch.attributes)) {
			if value, had := ch.known[name]; !had || value != ch.attributes[name] {
				attributes.ids, attributes.names = append(attributes.ids, ch.id), append(attributes.names, name)
				attributes.values = append(attributes.values, ch.attributes[name])
			}
		}
		c := &known
		if ch.before.revision == 0 {
			c = &fresh
			if in.Tenant != "" {
				attributes.ids, attributes.names = append(attributes.ids, ch.id), append(attributes.names, tenantAttribute)
				attributes.values = append(attributes.values, in.Tenant)
			}
		}
		why := or(in.Trouble, in.Failure)
		if why == nil {
			why = &Failure{}
		}
		c.ids, c.definitions = append(c.ids, ch.id), append(c.definitions, in.Name)
		c.versions, c.statuses = append(c.versions, int32(in.Version)), append(c.statuses, string(in.Status))
		c.waits, c.steps, c.codes = append(c.waits, in.waits()), append(c.steps, why.Step), append(c.codes, string(why.Code))
		c.befores, c.revisions = append(c.befores, ch.before.revision), append(c.revisions, ch.after.revision)
		c.snapshots, c.hashes = append(c.snapshots, ch.after.snapshot), append(c.hashes, ch.after.hash)
		c.created, c.updated = append(c.created, in.CreatedAt), append(c.updated, in.UpdatedAt)
	}
	// All sorted by id, so that two engines never wait for each other in a circle.
	if len(fresh.ids) > 0 {
		batch.Queue(`
			insert into saga (id, definition, version, created_at, day, revision, snapshot, hash, status, waits, step, code, updated_at)
			select id, definition, version, created_at, (created_at at time zone 'UTC')::date, revision, snapshot, hash, status, waits, step, code, updated_at
			from unnest($1::uuid[], $2::text[], $3::integer[], $4::timestamptz[], $5::bigint[], $6::bigint[], $7::bytea[],
				$8::text[], $9::text[], $10::text[], $11::text[], $12::timestamptz[])
				as s (id, definition, version, created_at, revision, snapshot, hash, status, waits, step, code, updated_at)
			order by id`,
			fresh.ids, fresh.definitions, fresh.versions, fresh.created, fresh.revisions, fresh.snapshots, fresh.hashes,
			fresh.statuses, fresh.waits, fresh.steps, fresh.codes, fresh.updated)
	}
	if len(known.ids) > 0 {
		batch.Queue(`
			with changed as (
				update saga set version = c.version, revision = c.revision, snapshot = c.snapshot, hash = c.hash, status = c.status,
					waits = c.waits, step = c.step, code = c.code, updated_at = c.updated_at
				from (
					select * from unnest($1::uuid[], $2::bigint[], $3::integer[], $4::bigint[], $5::bigint[], $6::bytea[],
						$7::text[], $8::text[], $9::text[], $10::text[], $11::timestamptz[])
						as c (id, before, version, revision, snapshot, hash, status, waits, step, code, updated_at) order by id
				) as c
				where saga.id = c.id and saga.revision = c.before
				returning 1
			)
			select saga_expect(count(*), $12) from changed`,
			known.ids, known.befores, known.versions, known.revisions, known.snapshots, known.hashes,
			known.statuses, known.waits, known.steps, known.codes, known.updated, len(known.ids))
	}
	if len(log.ids) > 0 {
		batch.Queue(`
			insert into saga_log (saga_id, seq, day, entry)
			select * from unnest($1::uuid[], $2::bigint[], $3::date[], $4::bytea[])`, log.ids, log.seqs, log.days, log.entries)
	}
	if len(begun.ids) > 0 { // theirs alone, as the row in saga is: "on conflict" would write a record more for each
		batch.Queue("insert into saga_live (saga_id, due_at) select * from unnest($1::uuid[], $2::timestamptz[])", begun.ids, begun.due)
	}
	if len(set.ids) > 0 {
		batch.Queue(`
			insert into saga_live (saga_id, due_at) select * from unnest($1::uuid[], $2::timestamptz[])
			on conflict (saga_id) do update set due_at = excluded.due_at`, set.ids, set.due)
	}
	if len(unset) > 0 {
		batch.Queue("delete from saga_live where saga_id = any($1)", unset)
	}
	if len(ended) > 0 {
		batch.Queue("delete from saga_lock where saga_id = any($1)", ended)
	}
	if len(attributes.ids) > 0 {
		batch.Queue(`
			insert into saga_attribute (saga_id, name, value) select * from unnest($1::uuid[], $2::text[], $3::text[])
			on conflict (saga_id, name) do update set value = excluded.value`, attributes.ids, attributes.names, attributes.values)
	}
}

// isConflict reports that a saga was changed, or begun, by another engine since
// it was read. Nothing was written: read it again and decide anew.
func isConflict(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "CM409" || pg.Code == "23505" && pg.ConstraintName == "saga_pkey")
}

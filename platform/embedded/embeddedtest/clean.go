package embeddedtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// clean makes the database as it was when its tables were made. One that has other
// tables since, or other rows than those at first, is emptied instead.
func (db *database) clean(ctx context.Context, admin string) error {
	url, err := withDatabase(admin, db.name)
	if err != nil {
		return err
	}
	return within(ctx, url, func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, checkDatabase); err != nil {
			return err
		}
		if db.tables != "" && db.wipe(ctx, conn) == nil {
			return nil
		}
		db.tables, db.made = "", state{}
		_, err := conn.Exec(ctx, emptyDatabase)
		return err
	})
}

// state is what is in a database.
type state struct {
	tables, filled []uint32 // all that are there, and those which hold something
	counting       []uint32 // sequences that were asked
	sum            string   // of what else is in the catalogue, and of all rows
}

func look(ctx context.Context, conn *pgx.Conn) (s state, err error) {
	err = conn.QueryRow(ctx, lookSQL).Scan(&s.tables, &s.filled, &s.counting, &s.sum)
	return s, err
}

var errDiffers = errors.New("more was changed than rows")

// wipe drops the tables that came later and the rows that were written.
func (db *database) wipe(ctx context.Context, conn *pgx.Conn) error {
	now, err := look(ctx, conn)
	if err != nil {
		return err
	}
	without := func(from, these []uint32) []uint32 {
		return slices.DeleteFunc(slices.Clone(from), func(table uint32) bool { return slices.Contains(these, table) })
	}
	later := without(now.tables, db.made.tables)
	var statements []string
	err = conn.QueryRow(ctx, `
		SELECT array_remove(ARRAY[
			(SELECT 'DROP TABLE ' || string_agg(t::regclass::text, ', ') || ' CASCADE' FROM unnest($1::oid[]) AS t),
			(SELECT 'TRUNCATE ' || string_agg(t::regclass::text, ', ') || ' RESTART IDENTITY CASCADE' FROM unnest($2::oid[]) AS t)
		], NULL)`, later, without(without(now.filled, later), db.made.filled)).Scan(&statements)
	if err != nil {
		return err
	}
	kept := make([]string, 0, len(db.made.counting))
	for _, sequence := range db.made.counting {
		kept = append(kept, strconv.FormatUint(uint64(sequence), 10))
	}
	statements = append(statements, fmt.Sprintf(restartSequences, strings.Join(kept, ",")))
	if _, err := conn.Exec(ctx, strings.Join(statements, ";\n")); err != nil {
		return err
	}
	if now, err = look(ctx, conn); err != nil {
		return err
	}
	if fmt.Sprint(now) != fmt.Sprint(db.made) {
		return errDiffers
	}
	return nil
}

// lookSQL sums the catalogue up by the transactions that have written it last. What
// TRUNCATE and VACUUM write is left out, but not what ANALYZE has found.
const lookSQL = `
WITH class AS (
	SELECT * FROM pg_class WHERE oid >= 16384 AND relkind <> 't' AND relnamespace <> 'pg_toast'::regnamespace
), filled AS (
	SELECT oid FROM class WHERE relkind IN ('r', 'm') AND pg_relation_size(oid) > 0
)
SELECT
	(SELECT coalesce(array_agg(oid ORDER BY oid), '{}') FROM class WHERE relkind IN ('r', 'p')),
	(SELECT coalesce(array_agg(oid ORDER BY oid), '{}') FROM filled),
	(SELECT coalesce(array_agg(seqrelid ORDER BY seqrelid), '{}') FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) IS NOT NULL),
	md5(concat_ws('|',
		(SELECT string_agg((oid, relname, relnamespace, relkind, relowner, relacl, reloptions, relpersistence,
			relispartition, relrowsecurity, relforcerowsecurity, relreplident, relpartbound)::text, ',' ORDER BY oid) FROM class),
		(SELECT string_agg((attrelid, attnum, a.xmin)::text, ',' ORDER BY attrelid, attnum) FROM pg_attribute a JOIN class ON class.oid = attrelid),
		(SELECT string_agg((i.indexrelid, i.indisvalid, i.indisunique, i.indkey)::text, ',' ORDER BY i.indexrelid) FROM pg_index i JOIN class ON class.oid = i.indexrelid),
		(SELECT string_agg((inhrelid, inhparent)::text, ',' ORDER BY inhrelid) FROM pg_inherits),
		(SELECT string_agg((oid, xmin)::text, ',' ORDER BY oid) FROM pg_attrdef),
		(SELECT string_agg((oid, xmin)::text, ',' ORDER BY oid) FROM pg_constraint WHERE oid >= 16384),
		(SELECT string_agg((oid, xmin)::text, ',' ORDER BY oid) FROM pg_trigger),
		(SELECT string_agg((oid, xmin)::text, ',' ORDER BY oid) FROM pg_rewrite WHERE oid >= 16384),
		(SELECT string_agg((oid, xmin)::text, ',' ORDER BY oid) FROM pg_policy),
		(SELECT string_agg((oid, xmin)::text, ',' ORDER BY oid) FROM pg_proc WHERE oid >= 16384),
		(SELECT string_agg((oid, xmin)::text, ',' ORDER BY oid) FROM pg_type WHERE oid >= 16384),
		(SELECT string_agg((oid, xmin)::text, ',' ORDER BY oid) FROM pg_enum),
		(SELECT string_agg((oid, xmin)::text, ',' ORDER BY oid) FROM pg_statistic_ext),
		(SELECT string_agg((oid, xmin)::text, ',' ORDER BY oid) FROM pg_namespace WHERE nspname !~ '^pg_'),
		(SELECT string_agg((starelid, staattnum)::text, ',' ORDER BY starelid, staattnum) FROM pg_statistic WHERE starelid >= 16384),
		(SELECT string_agg((seqrelid, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle, pg_sequence_last_value(seqrelid))::text, ',' ORDER BY seqrelid) FROM pg_sequence s),
		(SELECT string_agg(query_to_xml('SELECT * FROM ' || oid::regclass, false, true, '')::text, ',' ORDER BY oid) FROM filled)))`

// restartSequences sets back those that no truncated table owns, as well.
const restartSequences = `
DO $$
DECLARE sequence regclass;
BEGIN
	FOR sequence IN SELECT seqrelid FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) IS NOT NULL AND seqrelid <> ALL ('{%s}') LOOP
		EXECUTE 'ALTER SEQUENCE ' || sequence || ' RESTART';
	END LOOP;
END $$`

// checkDatabase refuses a database in which more than its schemas was changed.
const checkDatabase = `
DO $$
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
END $$`

// emptyDatabase drops everything that is in a schema.
const emptyDatabase = `
DO $$
DECLARE name text;
BEGIN
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

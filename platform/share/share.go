// Package share divides a number of items, such as partitions or lanes, fairly
// among the processes that share one Postgres database.
//
// An item is owned through a session advisory lock, so a process that dies
// loses its items the moment its connection does, with no lease to wait out and
// no clock to trust. Members are counted by advisory locks as well: nothing is
// stored. The locks of one database do not meet those of another. The connection
// must be a direct one; a pooler in transaction mode would hand the locks to
// somebody else.
//
// Ownership is an optimisation, not a fence: a process that lost its connection
// without noticing may act for a moment longer. Guard writes with a
// compare-and-swap.
package share

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// patience bounds every statement: a server that is cut off answers no more, and
// the connection does not notice.
const patience = 30 * time.Second

// Division is one process's part in dividing the items 0 to n-1 of a name. It
// is bound to a connection and not safe for concurrent use.
type Division struct {
	conn    *pgx.Conn
	items   int
	members int32 // advisory lock class that members hold one lock of
	locks   int32 // advisory lock class of the items
	held    []int
}

// Join makes this connection a member of the division called name. A connection
// can be a member of a name once.
func Join(ctx context.Context, conn *pgx.Conn, name string, items int) (*Division, error) {
	d := &Division{
		conn: conn, items: items, members: class(name + "/members"), locks: class(name + "/items"),
		held: []int{}, // not nil: pgx sends nil as null, which no item differs from
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// The keepalives have the server find out within half a minute that the
	// machine at the other end is gone; the system's default is two hours.
	_, err := conn.Exec(ctx, `
		select set_config('tcp_keepalives_idle', '15', false), set_config('tcp_keepalives_interval', '5', false),
			set_config('tcp_keepalives_count', '3', false), pg_advisory_lock($1, pg_backend_pid())`, d.members)
	if err != nil {
		return nil, fmt.Errorf("join division %s: %w", name, err)
	}
	return d, nil
}

func class(name string) int32 {
	h := fnv.New32a()
	h.Write([]byte("countermand/" + name))
	return int32(h.Sum32())
}

// Held returns the items this member owns, in order.
func (d *Division) Held() []int { return slices.Clone(d.held) }

// Surplus returns the items this member owns beyond its fair share. Stop
// working on them, then give them up with [Division.Release].
func (d *Division) Surplus(ctx context.Context) ([]int, error) {
	fair, err := d.fair(ctx)
	if err != nil {
		return nil, err
	}
	return slices.Clone(d.held[min(fair, len(d.held)):]), nil
}

// Release gives items up, for other members to take.
func (d *Division) Release(ctx context.Context, items []int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, item := range items {
		if _, err := d.conn.Exec(ctx, "select pg_advisory_unlock($1, $2)", d.locks, int32(item)); err != nil {
			return fmt.Errorf("release item %d: %w", item, err)
		}
		d.held = slices.DeleteFunc(d.held, func(held int) bool { return held == item })
	}
	return nil
}

// Take locks free items up to the fair share and reports whether it got any. It
// never waits for another member.
func (d *Division) Take(ctx context.Context) (bool, error) {
	fair, err := d.fair(ctx)
	if err != nil {
		return false, err
	}
	if len(d.held) >= fair {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// The limit stops the scan at the fair share: a lock taken by a row that is
	// then thrown away would be held without being known.
	rows, err := d.conn.Query(ctx, `
		select item from (
			select item from generate_series(0, $2::int - 1) as item where not item = any($3::int[]) offset 0
		) as free
		where pg_try_advisory_lock($1, item)
		limit $4`, d.locks, d.items, d.held, fair-len(d.held))
	if err != nil {
		return false, fmt.Errorf("take items: %w", err)
	}
	taken, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return false, fmt.Errorf("take items: %w", err)
	}
	d.held = append(d.held, taken...)
	slices.Sort(d.held)
	return len(taken) > 0, nil
}

// fair returns how many items this member may hold: the items divided by the
// members, and one of the remainder for those who come first by their lock.
func (d *Division) fair(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var members, before int
	err := d.conn.QueryRow(ctx, `
		select count(*), count(*) filter (where objid < pg_backend_pid()::oid) from pg_locks
		where locktype = 'advisory' and classid = ($1::bigint & 4294967295)::oid and objsubid = 2 and granted
			and database = (select oid from pg_database where datname = current_database())`,
		int64(d.members)).Scan(&members, &before)
	if err != nil {
		return 0, fmt.Errorf("count members: %w", err)
	}
	members = max(members, 1)
	share := d.items / members
	if before < d.items%members {
		share++
	}
	return share, nil
}

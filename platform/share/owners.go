package share

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Owner is a connection that owns an item.
type Owner struct {
	Application string `json:"application"` // application_name of the connection
	PID         int    `json:"pid"`         // of its backend
}

// Owners returns who owns the items of the division called name; those that nobody
// owns are absent. It is for people to look at: it has changed by the time it is read.
func Owners(ctx context.Context, pool *pgxpool.Pool, name string) (map[int]Owner, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	rows, _ := pool.Query(ctx, `
		select l.objid::bigint, coalesce(a.application_name, ''), l.pid
		from pg_locks as l left join pg_stat_activity as a using (pid)
		where l.locktype = 'advisory' and l.classid = ($1::bigint & 4294967295)::oid and l.objsubid = 2 and l.granted
			and l.database = (select oid from pg_database where datname = current_database())`, int64(class(name+"/items")))
	owners := make(map[int]Owner)
	var (
		item int64
		one  Owner
	)
	_, err := pgx.ForEachRow(rows, []any{&item, &one.Application, &one.PID}, func() error {
		owners[int(item)] = one
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("owners of %s: %w", name, err)
	}
	return owners, nil
}

package saga

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Seen is a saga and the revision in which somebody has it; 0 for none.
type Seen struct {
	ID       string
	Revision int64
}

// Current is a saga as it stands.
type Current struct {
	Instance
	Revision int64
}

// Changed returns those of the sagas that have another revision than was seen, in
// no order, with one statement however many there are: it costs little for those
// that have not changed. What does not exist, or cannot be read, is left out.
func (r *Reader) Changed(ctx context.Context, seen []Seen) ([]Current, error) {
	ids, revisions := make([][16]byte, 0, len(seen)), make([]int64, 0, len(seen))
	for _, s := range seen {
		if id, err := uuid.Parse(s.ID); err == nil {
			ids, revisions = append(ids, id), append(revisions, s.Revision)
		}
	}
	rows, err := r.pool.Query(ctx, `
		select `+columnsOf+`
		from unnest($1::uuid[], $2::bigint[]) as seen (id, revision)
		join saga as s on s.id = seen.id and s.revision <> seen.revision
		left join saga_live as l on l.saga_id = s.id`, ids, revisions)
	if err != nil {
		return nil, fmt.Errorf("read changed sagas: %w", err)
	}
	var (
		row     scanner
		changed []Current
	)
	_, err = pgx.ForEachRow(rows, row.targets(), func() error {
		if saga := row.saga(); saga.unreadable == nil {
			changed = append(changed, Current{saga.Instance, saga.revision})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read changed sagas: %w", err)
	}
	for i := range changed {
		in := &changed[i].Instance
		graph, err := r.Graph(ctx, in.Name, in.Version)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		in.Steps = graph.steps(in.Steps)
	}
	return changed, nil
}

package saga

import (
	"context"
	"fmt"
	"time"
)

// retainEvery is how often the engine looks for sagas that are kept no longer, and
// retainMax how many one statement deletes.
const (
	retainEvery = time.Hour
	retainMax   = 1000
)

// RunRetention deletes sagas whose retention has passed since their end, drops the
// partitions of days of which no saga is left, and makes those of the days to come,
// until ctx ends; it returns nil then. Sagas of definitions that no engine has told
// of are kept.
func (e *Engine) RunRetention(ctx context.Context) error {
	for {
		deleted, err := e.Retain(ctx)
		if err != nil && ctx.Err() == nil {
			e.config.Logger.WarnContext(ctx, "saga retention failed", "retry_in", retainEvery, "error", err)
		}
		if deleted > 0 {
			e.config.Logger.InfoContext(ctx, "sagas deleted after their retention", "sagas", deleted)
		}
		select {
		case <-time.After(retainEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// Retain does once what RunRetention does, and returns how many sagas it deleted.
func (e *Engine) Retain(ctx context.Context) (deleted int, err error) {
	if _, err := e.pool.Exec(ctx, "select saga_partitions($1)", partitionsAhead); err != nil {
		return 0, fmt.Errorf("make partitions: %w", err)
	}
	for {
		// Locked rows are being compensated for a parent, or deleted by another engine.
		tag, err := e.pool.Exec(ctx, `
			with past as (
				select s.id from saga as s join saga_definition as d on d.name = s.definition and d.version = s.version
				where s.status in ('completed', 'compensated', 'abandoned')
					and s.updated_at < clock_timestamp() - make_interval(secs => (d.graph->>'retention_seconds')::float8)
				order by s.updated_at limit $1
				for update of s skip locked
			), found as (
				delete from saga_attribute where saga_id in (select id from past)
			)
			delete from saga where id in (select id from past)`, retainMax)
		if err != nil {
			return deleted, fmt.Errorf("delete sagas: %w", err)
		}
		deleted += int(tag.RowsAffected())
		if tag.RowsAffected() < retainMax {
			break
		}
	}
	if _, err := e.pool.Exec(ctx, "select saga_drop_partitions()"); err != nil {
		return deleted, fmt.Errorf("drop partitions: %w", err)
	}
	return deleted, nil
}

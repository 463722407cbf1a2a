package webhook

import (
	"context"
	"fmt"
	"time"
)

// upkeepEvery is how often deliveries that nobody took are given up and old ones removed.
const upkeepEvery = 15 * time.Second

// upkeepMax is how many rows one statement of the upkeep changes.
const upkeepMax = 1000

// RunUpkeep gives up what was not taken in time, removes what has been kept for long
// enough, and counts for the metrics, until ctx ends. Any number of processes may run it.
func (s *Store) RunUpkeep(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := s.upkeep(ctx); err != nil {
			s.config.Logger.WarnContext(ctx, "upkeep of webhooks", "error", err)
		}
		select {
		case <-time.After(min(upkeepEvery, 15*s.config.Poll)):
		case <-ctx.Done():
		}
	}
	return nil
}

func (s *Store) upkeep(ctx context.Context) error {
	// What is in flight at the end of its time is not given up under its sender's hands.
	margin := s.config.Timeouts.Total + 10*s.config.Poll
	for _, statement := range []struct {
		text string
		args []any
	}{
		{`update webhook_delivery set state = 'dead', ended_at = clock_timestamp(),
			error = case when error = '' then 'the sink was not ready for it in time' else error end
		where id in (
			select d.id from webhook_delivery as d join webhook_subscription as s on s.id = d.subscription
			where d.state = 'pending' and d.give_up_at < clock_timestamp() - $2::interval
				and (s.state <> 'paused' or d.created_at < clock_timestamp() - $3::interval)
			limit $1 for update of d skip locked
		)`, []any{margin, s.config.KeepPaused}},
		{`with old as (
			select d.id from webhook_delivery as d
			where d.state = 'delivered' and d.ended_at < clock_timestamp() - $2::interval
				or d.state = 'dead' and d.ended_at < clock_timestamp() - $3::interval
			limit $1 for update skip locked
		), attempts as (
			delete from webhook_attempt where delivery in (select id from old)
		)
		delete from webhook_delivery where id in (select id from old)`, []any{s.config.KeepDelivered, s.config.KeepDead}},
		{`with old as (
			select d.id from webhook_delivery as d join webhook_subscription as s on s.id = d.subscription
			where s.state = 'deleted' limit $1 for update of d skip locked
		), attempts as (
			delete from webhook_attempt where delivery in (select id from old)
		)
		delete from webhook_delivery where id in (select id from old)`, nil},
		{`delete from webhook_subscription where id in (
			select s.id from webhook_subscription as s
			where s.state = 'deleted' and not exists (select from webhook_delivery as d where d.subscription = s.id)
			limit $1 for update skip locked
		)`, nil},
		// An event is touched when it is wanted again, so one that is old and unwanted stays so.
		{`delete from webhook_event where id in (
			select e.id from webhook_event as e
			where e.stored_at < clock_timestamp() - $2::interval
				and not exists (select from webhook_delivery as d where d.event = e.id)
			limit $1 for update skip locked
		)`, []any{s.config.KeepDelivered}},
	} {
		if err := s.inParts(ctx, statement.text, statement.args); err != nil {
			return err
		}
	}
	return s.count(ctx)
}

// inParts runs a statement until it finds fewer rows than it may change.
func (s *Store) inParts(ctx context.Context, statement string, args []any) error {
	for ctx.Err() == nil {
		work, cancel := detached(ctx, 30*time.Second)
		tag, err := s.pool.Exec(work, statement, append([]any{upkeepMax}, args...)...)
		cancel()
		if err != nil {
			return fmt.Errorf("clean up: %w", err)
		}
		if tag.RowsAffected() < upkeepMax {
			return nil
		}
	}
	return nil
}

// count takes stock for the metrics.
func (s *Store) count(ctx context.Context) error {
	work, cancel := detached(ctx, 30*time.Second)
	defer cancel()
	var (
		pending, dead                     int
		oldest                            float64
		waiting, active, paused, disabled int
	)
	err := s.pool.QueryRow(work, `
		select count(*) filter (where state = 'pending'), count(*) filter (where state = 'dead'),
			coalesce(extract(epoch from clock_timestamp() - min(created_at) filter (where state = 'pending')), 0)::float8
		from webhook_delivery where state in ('pending', 'dead')`).Scan(&pending, &dead, &oldest)
	if err != nil {
		return fmt.Errorf("count deliveries: %w", err)
	}
	err = s.pool.QueryRow(work, `
		select count(*) filter (where state = 'pending'), count(*) filter (where state = 'active'),
			count(*) filter (where state = 'paused'), count(*) filter (where state = 'disabled')
		from webhook_subscription`).Scan(&waiting, &active, &paused, &disabled)
	if err != nil {
		return fmt.Errorf("count subscriptions: %w", err)
	}
	m := s.metrics
	m.backlog.Set(float64(pending))
	m.dead.Set(float64(dead))
	m.oldest.Set(oldest)
	for state, n := range map[State]int{Pending: waiting, Active: active, Paused: paused, Disabled: disabled} {
		m.subscriptions.WithLabelValues(string(state)).Set(float64(n))
	}
	return nil
}

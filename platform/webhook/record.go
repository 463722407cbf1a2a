package webhook

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// recorded is the state that a delivery has since its attempt was recorded; empty when
// somebody else had decided over it meanwhile.
type recorded string

// keep records an attempt. Should the database be away it is tried again: a delivery
// whose attempt is not recorded would be sent again.
func (s *Sender) keep(ctx context.Context, r *row, o *outcome) {
	work := context.WithoutCancel(ctx)
	for tries := 1; ; tries++ {
		state, err := s.record.Do(work, *o)
		if err == nil {
			s.store.metrics.ended(string(state))
			if state == DeliveryDead {
				s.config.Logger.WarnContext(ctx, "webhook delivery became a dead letter", "subscription", r.id, "delivery", o.delivery,
					"attempts", o.number, "status", o.status, "error", o.failure)
			}
			return
		}
		s.config.Logger.WarnContext(ctx, "webhook attempt is not recorded", "subscription", r.id, "delivery", o.delivery, "error", err)
		const triesMax = 60
		if ctx.Err() != nil || tries == triesMax {
			return
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// recordAll stores what became of attempts. A delivery that somebody else has decided
// over since it was read keeps its state; the attempt is logged all the same.
func (s *Store) recordAll(ctx context.Context, all []outcome) ([]recorded, error) {
	n := len(all)
	var (
		ids                = make([]uuid.UUID, n)
		numbers, durations = make([]int32, n), make([]int32, n)
		began              = make([]time.Time, n)
		statuses           = make([]*int32, n)
		failures, verdicts = make([]string, n), make([]string, n)
		rests              = make([]time.Duration, n)
	)
	for i := range all {
		o := &all[i]
		ids[i], numbers[i], began[i], durations[i] = o.delivery, int32(o.number), o.began, int32(o.took.Milliseconds())
		failures[i], verdicts[i], rests[i] = o.failure, string(o.verdict), o.rest
		if o.status != 0 {
			status := int32(o.status)
			statuses[i] = &status
		}
	}
	rows, err := s.pool.Query(ctx, `
		with made as (
			select * from unnest($1::uuid[], $2::integer[], $3::timestamptz[], $4::integer[], $5::integer[], $6::text[], $7::text[], $8::interval[])
				as n (delivery, number, began_at, duration_ms, status, error, verdict, rest)
		), logged as (
			insert into webhook_attempt (delivery, number, began_at, duration_ms, status, error)
			select delivery, number, began_at, duration_ms, status, error from made
			on conflict (delivery, number) do nothing
		), judged as (
			select m.*, case
				when m.verdict = 'accepted' then 'delivered'
				when m.verdict = 'retry' and clock_timestamp() + m.rest < d.give_up_at then 'pending'
				else 'dead' end as state
			from made as m join webhook_delivery as d on d.id = m.delivery
		)
		update webhook_delivery as d set state = j.state, attempts = j.number, tried = d.tried + 1, status = j.status, error = j.error,
			due_at = clock_timestamp() + j.rest, ended_at = case when j.state <> 'pending' then clock_timestamp() end
		from judged as j
		where d.id = j.delivery and d.state = 'pending' and d.attempts = j.number - 1
		returning d.id, d.state`, ids, numbers, began, durations, statuses, failures, verdicts, rests)
	if err != nil {
		return nil, fmt.Errorf("record attempts: %w", err)
	}
	states := make(map[uuid.UUID]string, n)
	var (
		id    uuid.UUID
		state string
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &state}, func() error { states[id] = state; return nil }); err != nil {
		return nil, fmt.Errorf("record attempts: %w", err)
	}
	answers := make([]recorded, n)
	for i := range all {
		answers[i] = recorded(states[all[i].delivery])
	}
	return answers, nil
}

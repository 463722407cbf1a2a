package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/postgres"
)

// redriver gives dead letters that were told to be handled again to the processor,
// each in a transaction of its own, which also removes the letter. The broker has
// no part in it: other consumers of the topic see nothing, and it is the same on
// every broker. Parked letters follow in order when nothing dead is before them.
type redriver struct {
	pool       *pgxpool.Pool
	name       string
	topics     []string
	partitions []int32 // nil: all
	attempt    func(ctx context.Context, batch *Batch) error
	backoff    func(rests int) time.Duration
	redriven   *prometheus.CounterVec // by outcome
	log        *slog.Logger

	parked map[asideKey]bool
	stalls map[int64]stalledLetter
}

// stalledLetter is a letter that failed and rests.
type stalledLetter struct {
	stall
	key     asideKey
	ordered bool // later letters of the key wait for it
}

// redriveMax bounds the letters of one look at the table.
const redriveMax = 64

// due is a letter whose turn has come.
type due struct {
	ID, Revision int64
	Topic        string
	Partition    int32
	Position     int64
	Key          string
	Parks        bool
	Replayed     bool
	Again        bool
	Redrives     int
	Attributes   []byte
	Data         []byte
	StoredAt     *time.Time
}

// key is what the letter must not overtake its like of.
func (l *due) key() asideKey {
	return asideKey{Source{events.Topic(l.Topic), int(l.Partition)}, l.Key}
}

// ordered reports that the letter waits for earlier ones of its key. Dead ones are
// redriven by themselves; what was parked or replayed is many, and was in order.
func (l *due) ordered() bool { return l.Parks || l.Replayed }

// pass handles what is due and looks which keys are parked. It reports whether
// there is more to do at once. An error means that the table could not be read.
func (r *redriver) pass(ctx context.Context) (more bool, err error) {
	letters, err := r.look(ctx)
	if err != nil {
		return false, err
	}
	handled := 0
	held := make(map[asideKey]bool) // keys whose next letter is not handled
	for i := range letters {
		l := &letters[i]
		if l.ordered() && held[l.key()] {
			continue
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		done, err := r.redrive(ctx, l)
		if err != nil {
			return false, err
		}
		if done {
			handled++
		} else if l.ordered() {
			held[l.key()] = true
		}
	}
	if handled > 0 { // which may have freed keys
		_, err = r.look(ctx)
	}
	return handled > 0 && len(letters) == redriveMax, err
}

// look reads what is due and which keys are parked. What rests after a failure is
// not due, nor is what waits behind it: a look is not to be filled with those.
func (r *redriver) look(ctx context.Context) (letters []due, err error) {
	var (
		resting    []int64
		topics     []string
		partitions []int32
		keys       []string
	)
	now := time.Now()
	for id, stalled := range r.stalls {
		if !stalled.until.After(now) {
			continue
		}
		resting = append(resting, id)
		if stalled.ordered {
			topics, partitions = append(topics, string(stalled.key.Topic)), append(partitions, int32(stalled.key.Partition))
			keys = append(keys, stalled.key.key)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
	defer cancel()
	var batch pgx.Batch
	// Of a key that is parked, what has nothing dead before it; of the others, what
	// was told to be handled again.
	batch.Queue(`
		select id, revision, topic, partition, position, key, parks, replayed, again, redrives, attributes, data, stored_at
		from dead_letter as l
		where consumer = $1 and state <> 'dead' and topic = any($2) and ($3::integer[] is null or partition = any($3))
			and not (parks and exists (
				select from dead_letter as b
				where b.consumer = l.consumer and b.topic = l.topic and b.partition = l.partition and b.key = l.key
					and b.parks and b.state = 'dead' and b.id < l.id))
			and id <> all(coalesce($5::bigint[], '{}'))
			and not ((parks or replayed) and exists (
				select from unnest($6::text[], $7::integer[], $8::text[]) as h (topic, partition, key)
				where h.topic = l.topic and h.partition = l.partition and h.key = l.key))
		order by id
		limit $4`, r.name, r.topics, r.partitions, redriveMax, resting, topics, partitions, keys,
	).Query(func(rows pgx.Rows) (err error) {
		letters, err = pgx.CollectRows(rows, pgx.RowToStructByPos[due])
		return err
	})
	parked := make(map[asideKey]bool)
	batch.Queue(`
		select distinct topic, partition, key from dead_letter
		where consumer = $1 and parks and topic = any($2) and ($3::integer[] is null or partition = any($3))`,
		r.name, r.topics, r.partitions,
	).Query(func(rows pgx.Rows) error {
		var (
			topic, key string
			partition  int
		)
		_, err := pgx.ForEachRow(rows, []any{&topic, &partition, &key}, func() error {
			parked[asideKey{Source{events.Topic(topic), partition}, key}] = true
			return nil
		})
		return err
	})
	if err := r.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, fmt.Errorf("read dead letters of %s: %w", r.name, err)
	}
	r.parked = parked
	return letters, nil
}

// redrive hands one letter to the processor. It reports whether the letter needs
// no further attempt: it was handled, has died again, or is somebody else's.
func (r *redriver) redrive(ctx context.Context, l *due) (done bool, err error) {
	d := broker.Delivery{Topic: events.Topic(l.Topic), Partition: int(l.Partition), Offset: uint64(l.Position)}
	if l.StoredAt != nil {
		d.StoredAt = *l.StoredAt
	}
	if d.Event, err = events.ParseAttributes(l.Attributes, l.Data); err != nil {
		d.Malformed, d.Event.Data = err, l.Data
	} else {
		d.Malformed = d.Event.Validate()
	}
	source, before := sourceOf(&d), r.stalls[l.ID]
	one := &Batch{
		Deliveries: []broker.Delivery{d}, consumer: r.name,
		attempts: map[Source]attempt{source: before.attempt},
		letter:   &letterRef{id: l.ID, revision: l.Revision, replayed: l.Replayed, again: l.Again, redrives: l.Redrives},
	}
	one.reset()
	failed := r.attempt(ctx, one)
	switch {
	case failed == nil:
		failed = one.failed[source]
	case IsFenced(failed) || errors.Is(failed, postgres.ErrCommitUnknown):
		return false, nil // the next look tells what became of it
	default:
		alive, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
		defer cancel()
		if down := r.pool.Ping(alive); down != nil {
			return false, fmt.Errorf("the database is away: %w", failed)
		}
	}
	if failed != nil {
		count, rests := before.count+1, before.rests+1
		if contended(failed) {
			count = before.count
		}
		rest := r.backoff(rests)
		r.stalls[l.ID] = stalledLetter{stall{attempt{count, failed}, rests, time.Now().Add(rest)}, l.key(), l.ordered()}
		r.log.WarnContext(ctx, "redriven event failed and is tried again", "consumer", r.name, "dead_letter", l.ID,
			"event_id", d.Event.ID, "event_type", d.Event.Type, "attempt", count, "retry_in", rest, "error", failed)
		return false, nil
	}
	delete(r.stalls, l.ID)
	outcome := "handled"
	if len(one.aside) > 0 {
		outcome = "died"
	}
	r.redriven.WithLabelValues(outcome).Inc()
	r.log.InfoContext(ctx, "dead letter was redriven", "consumer", r.name, "dead_letter", l.ID,
		"event_id", d.Event.ID, "event_type", d.Event.Type, "saga_id", d.Event.CorrelationID, "outcome", outcome)
	return outcome == "handled", nil
}

// letterRef is the dead letter that a batch is about, instead of positions.
type letterRef struct {
	id, revision    int64
	replayed, again bool
	redrives        int
}

// queueLetter adds the statement that removes the letter, or says that it has died
// again. It fails the transaction when the letter is not as it was: somebody has
// discarded or edited it, or another process has handled it.
func (b *Batch) queueLetter(batch *pgx.Batch) {
	if len(b.aside) > 0 {
		d := &b.Deliveries[0]
		l := letterOf(d, b.aside[0].attempts, b.aside[0].err)
		batch.Queue(`
			with l as (
				update dead_letter set state = 'dead', revision = revision + 1, attempts = attempts + $3,
					reason = $4, error = $5, died_at = clock_timestamp()
				where id = $1 and revision = $2
				returning *
			), log as (
				insert into dead_letter_log (letter, verb, done_by, note, consumer, topic, partition, position, event_id, event_type)
				select id, 'died', consumer, error, consumer, topic, partition, position, event_id, event_type from l
			)
			select case when (select count(*) from l) = 1 then 0 else consumer_conflict() end`,
			b.letter.id, b.letter.revision, l.attempts, l.reason, l.text)
		return
	}
	if len(b.done) == 0 {
		return
	}
	batch.Queue(`
		with l as (
			delete from dead_letter where id = $1 and revision = $2 returning *
		), log as (
			insert into dead_letter_log (letter, verb, done_by, note, consumer, topic, partition, position, event_id, event_type, attributes, data)
			select id, 'handled', consumer, '', consumer, topic, partition, position, event_id, event_type, attributes, data from l
		)
		select case when (select count(*) from l) = 1 then 0 else consumer_conflict() end`,
		b.letter.id, b.letter.revision)
}

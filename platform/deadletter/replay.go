package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/postgres"
)

// Replay is an order to hand messages of a topic to one consumer once more. They are
// put beside its dead letters, as if they were redriven: the consumer handles each in
// its own process, those of one partition key in order; the broker and other
// consumers see nothing of it, and one that fails becomes a dead letter. Messages
// that arrive meanwhile are handled as ever, so a replayed one comes after later
// ones of its key.
//
// What the consumer remembers to have handled has no effect again: a command is only
// answered again, as it was. An event that is older than the inbox remembers becomes a
// dead letter, to be redriven or discarded.
type Replay struct {
	Order    Order // its Revision is not looked at
	Consumer string
	Topic    events.Topic
	// Since and Until bound the time at which the broker stored the messages: not
	// before Since, and before Until, or now.
	Since, Until time.Time
	// Instead of by time a range of positions of one partition can be given: From and
	// Through are its first and last, both included.
	Positions *Positions
	// IDs, EventType, Key and CorrelationID select within the range. What is empty does
	// not count.
	IDs           []string
	EventType     string
	Key           string
	CorrelationID string
	// Again has the handler called for events that the inbox knows to have had their
	// effect, and so makes the effect a second time. The reply is not sent again, the
	// inbox keeps the first one, and the facts that the handler emits have the ids of
	// the first time. Commands that were rejected, undone before they ran or wait for
	// their reply stay as they are. Without it a consumer that remembers nothing is
	// refused.
	Again bool
	// Expected is how many messages must be selected, or nothing is done. It is not
	// looked at in a dry run.
	Expected int
	// Rate is how many messages are put there per second: 50 by default.
	Rate float64
	// TimeMax ends the order after that long, whatever is left; 0: never.
	TimeMax time.Duration
}

// Positions is a range of one partition.
type Positions struct {
	Partition int    `json:"partition"`
	From      uint64 `json:"from"`
	Through   uint64 `json:"through"`
}

// Limits of a [Replay].
const (
	// ReplayMax is how many messages one may select.
	ReplayMax = 10_000
	// ReplayScanMax is how many messages its range may hold.
	ReplayScanMax = 1_000_000
	// ReplayIDsMax is how many ids it may name.
	ReplayIDsMax = 1_000
	// ReplaysMax is how often a message may be replayed to a consumer before it takes
	// force.
	ReplaysMax = 3
)

// Consumer is a consumer of a topic that has run on the database.
type Consumer struct {
	Service  string `json:"service"`
	Consumer string `json:"consumer"`
	Topic    string `json:"topic"`
	// Memory is how it tells what it has handled before: inbox, own or none.
	Memory consumer.Memory `json:"memory"`
	SeenAt time.Time       `json:"seen_at"` // when it last began to read
}

// ReplayItem is what became of one message.
type ReplayItem struct {
	Partition int    `json:"partition"`
	Position  uint64 `json:"position"`
	EventID   string `json:"event_id"`
	EventType string `json:"event_type"`
	// DeadLetter is the row under which it waits for its consumer.
	DeadLetter string `json:"dead_letter,omitempty"`
	Outcome    string `json:"outcome"` // done, refused or not_found
	Code       string `json:"code,omitempty"`
	Message    string `json:"message,omitempty"`
}

// Consumers returns the consumers that have run on the database.
func (s *Store) Consumers(ctx context.Context) ([]Consumer, error) {
	rows, _ := s.pool.Query(ctx, "select $1::text, consumer, topic, memory, seen_at from consumer_topic order by consumer, topic", s.service)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Consumer])
	if err != nil {
		return nil, fmt.Errorf("consumers of %s: %w", s.service, err)
	}
	return all, nil
}

// Replay obeys the order. begin is told how many messages are selected before the
// first is put there, each what became of every one. Messages are selected once, at
// the start.
//
// The error is a [*RefusalError] when nothing was done. Any other error ended it on
// the way: [ErrTimeUp], or what went wrong. What was told to each stands, and giving
// the order again refuses what still waits, and replays the rest.
func (s *Store) Replay(ctx context.Context, topics Topics, r Replay, begin func(selected int), each func(ReplayItem)) (BulkCount, error) {
	var count BulkCount
	start := time.Now()
	if err := s.checkReplay(ctx, topics, &r, start); err != nil {
		return count, err
	}
	bounded, cancel := within(ctx, r.TimeMax)
	defer cancel()
	selected, err := r.selected(bounded, topics)
	if errors.Is(err, broker.ErrNotFound) {
		return count, refuse("topic_not_found", "the broker has no topic %s", r.Topic)
	} else if err != nil {
		return count, ended(bounded, err)
	}
	count.Selected = len(selected)
	if !r.Order.DryRun && count.Selected != r.Expected {
		return count, refuse("count_differs", "the range holds %d such messages, not %d: look again with a dry run", count.Selected, r.Expected)
	}
	begin(count.Selected)
	limiter := newLimiter(r.Rate, r.Order.DryRun)
	for _, p := range selected {
		if err := turn(ctx, bounded, limiter); err != nil {
			return count, err
		}
		item, err := s.replayOne(bounded, topics, &r, p)
		if err != nil {
			return count, ended(bounded, err)
		}
		count.add(item.Outcome)
		each(item)
	}
	return count, nil
}

// ended returns [ErrTimeUp] for what failed because the time was up.
func ended(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), ErrTimeUp) {
		return ErrTimeUp
	}
	return err
}

// checkReplay refuses what cannot be done, and completes the range.
func (s *Store) checkReplay(ctx context.Context, topics Topics, r *Replay, now time.Time) error {
	if r.Until.IsZero() || r.Until.After(now) {
		r.Until = now
	}
	switch {
	case r.Order.By == "" || r.Order.Reason == "":
		return refuse("reason_required", "by and reason tell who gives the order and why: they are kept in the log")
	case r.Positions == nil && !r.Since.Before(r.Until), r.Positions == nil && r.Since.IsZero():
		return refuse("invalid_range", "since must be a time before until and now; or give positions of a partition")
	case r.Positions != nil && (r.Positions.From == 0 || r.Positions.From > r.Positions.Through || r.Positions.Partition < 0):
		return refuse("invalid_range", "from must be 1 or more and at most through")
	case r.Positions != nil && r.Positions.Partition >= topics.Partitions():
		return refuse("invalid_range", "the topic has the partitions 0 to %d", topics.Partitions()-1)
	case len(r.IDs) > ReplayIDsMax:
		return refuse("too_many_ids", "%d ids are given, at most %d are allowed", len(r.IDs), ReplayIDsMax)
	}
	known, err := s.Consumers(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(known, func(one Consumer) bool { return one.Consumer == r.Consumer && one.Topic == string(r.Topic) })
	switch {
	case at < 0:
		names := make([]string, 0, len(known))
		for _, one := range known {
			names = append(names, one.Consumer+" of "+one.Topic)
		}
		return refuse("consumer_not_found", "no consumer %q of %s has run here; these have: %s", r.Consumer, r.Topic, strings.Join(names, ", "))
	case known[at].Memory == consumer.MemoryNone && !r.Again:
		return refuse("remembers_nothing", "%s does not remember what it has handled, so all effects are made again: give again if that is meant", r.Consumer)
	case known[at].Memory == consumer.MemoryOwn && r.Again:
		return refuse("again_impossible", "%s remembers by means of its own what it has handled, which a replay cannot pass by", r.Consumer)
	}
	return nil
}

// place is where a selected message stands.
type place struct {
	partition     int
	position      uint64
	id, eventType string
}

// selected reads the range and returns where the messages stand that are to be
// replayed, those of a partition in order.
func (r *Replay) selected(ctx context.Context, topics Topics) ([]place, error) {
	in, err := r.span(ctx, topics)
	if err != nil {
		return nil, err
	}
	var (
		all     []place
		scanned int
	)
	err = in.read(ctx, topics, func(d *broker.Delivery) error {
		if scanned++; scanned > ReplayScanMax {
			return refuse("range_too_large", "the range holds more than %d messages: make it smaller", ReplayScanMax)
		}
		e := &d.Event
		if r.EventType != "" && e.Type != r.EventType || r.Key != "" && e.Key() != r.Key || r.CorrelationID != "" && e.CorrelationID != r.CorrelationID ||
			len(r.IDs) > 0 && !slices.Contains(r.IDs, e.ID) {
			return nil
		}
		if len(all) == ReplayMax {
			return refuse("too_many_messages", "more than %d messages are selected: make the range smaller", ReplayMax)
		}
		all = append(all, place{d.Partition, d.Offset, e.ID, e.Type})
		return nil
	})
	return all, err
}

// span returns the part of the topic that the range is.
func (r *Replay) span(ctx context.Context, topics Topics) (*span, error) {
	if p := r.Positions; p != nil {
		return &span{r.Topic, map[int]broker.Start{p.Partition: {After: p.From - 1}}, map[int]broker.Start{p.Partition: {After: p.Through}}}, nil
	}
	from, err := topics.Since(ctx, r.Topic, r.Since)
	if err != nil {
		return nil, err
	}
	through, err := topics.Since(ctx, r.Topic, r.Until)
	return &span{r.Topic, from, through}, err
}

// replayOne puts one message before its consumer.
func (s *Store) replayOne(ctx context.Context, topics Topics, r *Replay, p place) (ReplayItem, error) {
	item := ReplayItem{Partition: p.partition, Position: p.position, EventID: p.id, EventType: p.eventType, Outcome: BulkDone}
	d, err := topics.Lookup(ctx, r.Topic, p.partition, p.position)
	if errors.Is(err, broker.ErrNotFound) {
		item.Outcome = BulkNotFound
		return item, nil
	} else if err != nil {
		return item, err
	}
	err = postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		id, err := consumer.InsertReplay(ctx, tx, r.Consumer, &d, r.Again)
		if err != nil {
			return err
		}
		if id == 0 {
			return refuse("already_set_aside", "it is among the dead letters, or waits to be replayed: redrive or discard it there")
		}
		var before int
		if err := tx.QueryRow(ctx, `
			select count(*) from dead_letter_log as l join dead_letter as d on d.id = $1
			where l.verb = 'replay' and l.consumer = d.consumer and l.topic = d.topic and l.partition = d.partition
				and l.position = d.position and l.event_id = d.event_id`, id).Scan(&before); err != nil {
			return fmt.Errorf("count replays: %w", err)
		}
		if before >= ReplaysMax && !r.Order.Force {
			return refuse("replayed_too_often", "it was replayed %d times: give force if it is to be once more", before)
		}
		if r.Order.DryRun {
			return errDryRun
		}
		item.DeadLetter = name(s.service, id)
		return s.write(ctx, tx, id, "replay", r.Order)
	})
	if refused, ok := errors.AsType[*RefusalError](err); ok {
		item.Outcome, item.Code, item.Message, item.DeadLetter = BulkRefused, refused.Code, refused.Message, ""
	} else if err != nil && !errors.Is(err, errDryRun) {
		return item, err
	}
	return item, nil
}

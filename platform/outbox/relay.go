package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/share"
)

// RelayConfig of a [Relay]. The zero value of a field is its default.
type RelayConfig struct {
	// Name labels the relay in logs and metrics, such as "engine".
	Name string
	// BatchMax is the most messages of one batch: 500 by default, at most
	// [broker.BatchMessagesMax].
	BatchMax int
	// Poll is how long a relay rests when nobody wakes it: 500 ms by default. It
	// is the net under lost wake-ups, and what another process's writes wait for.
	Poll time.Duration
	// Balance is how often lanes are shared out anew: every second by default.
	Balance time.Duration
	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil: metrics are kept but not registered
}

func (c RelayConfig) withDefaults() RelayConfig {
	if c.Name == "" {
		c.Name = "outbox"
	}
	if c.BatchMax == 0 {
		c.BatchMax = 500
	}
	c.BatchMax = min(c.BatchMax, broker.BatchMessagesMax)
	if c.Poll == 0 {
		c.Poll = 500 * time.Millisecond
	}
	if c.Balance == 0 {
		c.Balance = time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// statementTimeout bounds each round trip: a server that is cut off answers no
// more, and the connection does not notice.
const statementTimeout = 30 * time.Second

// backoffMax caps how long a relay rests after the broker refused a batch.
const backoffMax = 5 * time.Second

// Relay publishes the outbox of one database. Run as many as you like on one
// database: they share the lanes.
type Relay struct {
	pool      *pgxpool.Pool
	publisher broker.Publisher
	config    RelayConfig
	wake      chan struct{}          // capacity 1: a wake-up while busy is not lost
	published *prometheus.CounterVec // by outcome
	stored    prometheus.Counter     // its children
	duplicate prometheus.Counter
	failed    prometheus.Counter
	dead      prometheus.Counter
	released  prometheus.Counter
	// Keys that wait behind a dead row, as [Relay.look] has found them. They and
	// releaseAt belong to the session.
	parked     map[string]bool
	parkedKeys prometheus.Gauge
	backlog    *backlog
	releaseAt  time.Time // of the next delayed event; zero: there is none

	mu    sync.Mutex
	state RelayState
}

// RelayState is how a relay fares.
type RelayState struct {
	// Lanes it owns, in order.
	Lanes []int
	// Failure is why it waits, empty when its last batch went out; FailingSince is
	// when that began.
	Failure      string
	FailingSince time.Time
}

// State returns how the relay fares.
func (r *Relay) State() RelayState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

func (r *Relay) holds(lanes []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Lanes = lanes
}

// fares takes in how the last batch went.
func (r *Relay) fares(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.state.Failure, r.state.FailingSince = "", time.Time{}
		return
	}
	r.state.Failure = err.Error()
	if r.state.FailingSince.IsZero() {
		r.state.FailingSince = time.Now()
	}
}

// NewRelay returns a relay from the outbox in pool's database to publisher. It
// takes one connection of the pool for as long as it runs.
func NewRelay(pool *pgxpool.Pool, publisher broker.Publisher, config RelayConfig) *Relay {
	config = config.withDefaults()
	labels := prometheus.Labels{"outbox": config.Name}
	r := &Relay{
		pool: pool, publisher: publisher, config: config, wake: make(chan struct{}, 1),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_outbox_published_total", ConstLabels: labels,
			Help: "Messages of the outbox by what the broker made of them.",
		}, []string{"outcome"}),
		dead: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "countermand_outbox_dead_total", ConstLabels: labels,
			Help: "Messages of the outbox that the broker will never take.",
		}),
		released: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "countermand_outbox_released_total", ConstLabels: labels,
			Help: "Delayed messages that were moved to the outbox.",
		}),
		parkedKeys: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "countermand_outbox_parked_keys", ConstLabels: labels,
			Help: "Partition keys of this relay's lanes that wait behind a dead row.",
		}),
		parked: make(map[string]bool), backlog: newBacklog(labels),
	}
	r.stored, r.duplicate = r.published.WithLabelValues("stored"), r.published.WithLabelValues("duplicate")
	r.failed = r.published.WithLabelValues("failed")
	if config.Metrics != nil {
		config.Metrics.MustRegister(r.published, r.dead, r.released, r.parkedKeys, r.backlog)
	}
	return r
}

// Wake tells the relay that a transaction with outbox rows has committed. It
// never blocks and may be called from anywhere.
func (r *Relay) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run publishes until ctx ends and returns nil then. It survives lost
// connections and a broker that is away. On its way out it publishes what is
// already committed, for at most two seconds.
func (r *Relay) Run(ctx context.Context) error {
	for {
		err := r.session(ctx)
		r.holds(nil)
		r.backlog.set(nil)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end that was asked for
		}
		r.fares(err)
		r.config.Logger.WarnContext(ctx, "outbox relay lost its session", "outbox", r.config.Name, "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

// row is one message of the outbox as the relay reads it.
type row struct {
	Lane       int16
	ID         int64
	PublishID  string
	Topic      string
	Attributes []byte
	Data       []byte
}

// sessionSettings of the relay's own connection. A delete that is lost only makes
// a duplicate, which the inbox removes, so its transactions need not wait for
// their fsync. And its table is small, busy and never analysed in time, so the
// planner would rather scan it, dead rows and all, than use the primary key:
// deleting seven rows took 0.7 ms.
const sessionSettings = `
	set synchronous_commit = off;
	set plan_cache_mode = force_generic_plan;
	set enable_seqscan = off;
	set enable_hashjoin = off;
	set enable_mergejoin = off`

// session relays over one connection: the locks of its lanes live and die with it.
func (r *Relay) session(ctx context.Context) error {
	conn, err := share.Connect(ctx, r.pool)
	if err != nil {
		return err
	}
	// A query that is cancelled half-way costs pgx the connection, and with it the
	// lanes and the last pass; so work is never cancelled, only begun no more.
	work := context.WithoutCancel(ctx)
	defer func() { _ = conn.Close(work) }() // frees the lanes at once
	if _, err := conn.Exec(work, sessionSettings); err != nil {
		return fmt.Errorf("set up connection: %w", err)
	}
	division, err := share.Join(work, conn, "outbox", Lanes)
	if err != nil {
		return err
	}
	var (
		published []row // stored by the broker, not yet deleted
		balanceAt time.Time
		countAt   time.Time
		failures  int
		first     int // lane to read first, so that a full one does not starve the others
	)
	for ctx.Err() == nil {
		if time.Now().After(balanceAt) {
			// Whoever gets a lane of ours must not find what is published already.
			if _, err := r.exchange(work, conn, published, nil); err != nil {
				return err
			}
			published = nil
			if err := balance(work, division); err != nil {
				return err
			}
			r.holds(division.Held())
			if err := r.look(work, conn, division.Held()); err != nil {
				return err
			}
			if !countAt.After(time.Now()) {
				if err := r.backlog.count(work, conn, division.Held()); err != nil {
					return err
				}
				countAt = time.Now().Add(backlogEvery * r.config.Balance)
			}
			balanceAt = time.Now().Add(r.config.Balance)
		}
		if !r.releaseAt.IsZero() && !r.releaseAt.After(time.Now()) {
			more, err := r.release(work, conn, division.Held())
			if err != nil {
				return err
			}
			if !more {
				if err := r.look(work, conn, division.Held()); err != nil {
					return err
				}
			}
		}
		rows, err := r.exchange(work, conn, published, rotate(division.Held(), first))
		if err != nil {
			return err
		}
		published = nil
		if len(rows) == 0 {
			select {
			case <-r.wake:
			case <-time.After(r.rest()):
			case <-ctx.Done():
			}
			continue
		}
		if len(rows) == r.config.BatchMax {
			first = int(rows[len(rows)-1].Lane) + 1
		}
		published, err = r.publish(work, conn, rows)
		if errors.Is(err, errUnparked) {
			balanceAt = time.Time{}
			continue
		}
		r.fares(err)
		if err == nil {
			failures = 0
			continue
		}
		failures++
		if len(published) > 0 { // it is not away, only slow or stumbling
			failures = 1
		}
		rest := min(backoffMax, 50*time.Millisecond<<min(failures, 7))
		r.config.Logger.WarnContext(ctx, "outbox relay waits for the broker",
			"outbox", r.config.Name, "waiting", len(rows)-len(published), "retry_in", rest, "error", err)
		select { // no wake-up cuts this rest short: the broker needs it
		case <-time.After(rest):
		case <-ctx.Done():
		}
	}
	r.drain(work, conn, published, division.Held())
	return nil
}

// rest returns how long to wait for a wake-up.
func (r *Relay) rest() time.Duration {
	if r.releaseAt.IsZero() {
		return r.config.Poll
	}
	return max(min(r.config.Poll, time.Until(r.releaseAt)), 0)
}

// rotate returns the lanes in order, beginning with the one numbered first or
// the next above it.
func rotate(lanes []int, first int) []int {
	at, _ := slices.BinarySearch(lanes, first)
	return slices.Concat(lanes[at:], lanes[:at])
}

func balance(ctx context.Context, division *share.Division) error {
	surplus, err := division.Surplus(ctx)
	if err != nil {
		return err
	}
	if err := division.Release(ctx, surplus); err != nil {
		return err
	}
	_, err = division.Take(ctx)
	return err
}

// exchange deletes what was published and reads what is to be, in one round
// trip and one transaction. Of each lane it reads the oldest rows, in order.
func (r *Relay) exchange(ctx context.Context, conn *pgx.Conn, published []row, lanes []int) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var batch pgx.Batch
	if len(published) > 0 {
		lane, id := make([]int16, len(published)), make([]int64, len(published))
		for i := range published {
			lane[i], id[i] = published[i].Lane, published[i].ID
		}
		batch.Queue(`
			delete from outbox using unnest($1::smallint[], $2::bigint[]) as p (lane, id)
			where outbox.lane = p.lane and outbox.id = p.id`, lane, id)
	}
	var rows []row
	if len(lanes) > 0 {
		// A lateral join can only be a nested loop: lane after lane, as the array
		// has them, until the limit. Sorting would read all lanes to the full first.
		batch.Queue(`
			select o.lane, o.id, o.publish_id, o.topic, o.attributes, o.data
			from unnest($1::smallint[]) as l (lane)
			cross join lateral (
				select * from outbox where outbox.lane = l.lane order by id limit $2
			) as o
			limit $2`, lanes, r.config.BatchMax,
		).Query(func(found pgx.Rows) (err error) {
			rows, err = pgx.CollectRows(found, pgx.RowToStructByPos[row])
			return err
		})
	}
	if batch.Len() == 0 {
		return nil, nil
	}
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	return rows, nil
}

// errUnparked means that a key was requeued or discarded since the relay has looked.
var errUnparked = errors.New("a parked key is free again")

// publish sends rows to the broker and returns those that are to be deleted. What is
// set aside is gone already. The error is nil when nothing is left of rows.
func (r *Relay) publish(ctx context.Context, conn *pgx.Conn, rows []row) (done []row, err error) {
	messages := make([]broker.Message, 0, len(rows))
	sent := make([]row, 0, len(rows))
	var (
		waiting     []row
		waitingKeys []string
	)
	for _, row := range rows {
		event, err := events.ParseAttributes(row.Attributes, row.Data)
		if err != nil {
			if err := r.bury(ctx, conn, row, "", false, err); err != nil {
				return done, err
			}
			continue
		}
		if len(r.parked) > 0 && r.parked[event.Key()] {
			waiting, waitingKeys = append(waiting, row), append(waitingKeys, event.Key())
			continue
		}
		row.PublishID = PublishID(row.PublishID, &event)
		messages = append(messages, broker.Message{Topic: events.Topic(row.Topic), PublishID: row.PublishID, Event: event})
		sent = append(sent, row)
	}
	if len(messages) > 0 {
		if done, err = r.send(ctx, conn, messages, sent); err != nil {
			return done, err
		}
	}
	if len(waiting) > 0 {
		parked, err := r.park(ctx, conn, waiting, waitingKeys)
		if err != nil {
			return done, err
		}
		if parked < len(waiting) {
			return done, errUnparked
		}
	}
	return done, nil
}

// send publishes messages, which are those of rows.
func (r *Relay) send(ctx context.Context, conn *pgx.Conn, messages []broker.Message, rows []row) (done []row, err error) {
	for i, receipt := range r.publisher.PublishBatch(ctx, messages) {
		switch {
		case receipt.Err == nil:
			if receipt.Duplicate {
				r.duplicate.Inc()
			} else {
				r.stored.Inc()
			}
			done = append(done, rows[i])
		case errors.Is(receipt.Err, broker.ErrRejected):
			key := messages[i].Event.Key()
			if r.parked[key] {
				continue // behind one that has died just now: it is parked when it is read again
			}
			if buryErr := r.bury(ctx, conn, rows[i], key, true, receipt.Err); buryErr != nil {
				return done, buryErr
			}
		default:
			r.failed.Inc()
			if err == nil { // one reason says it all; a batch has hundreds
				err = receipt.Err
			}
		}
	}
	return done, err
}

// printable makes a text that Postgres takes out of any bytes.
func printable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// drain is the last pass of a relay that was told to stop: what is committed
// should not wait for the next start.
func (r *Relay) drain(ctx context.Context, conn *pgx.Conn, published []row, lanes []int) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		rows, err := r.exchange(ctx, conn, published, lanes)
		if err != nil || len(rows) == 0 {
			return
		}
		if published, err = r.publish(ctx, conn, rows); err != nil {
			_, _ = r.exchange(ctx, conn, published, lanes)
			return
		}
	}
}

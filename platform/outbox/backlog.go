package outbox

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// CountMax is the most rows that are counted, of a lane or of all that are delayed:
// behind a broker that is away there may be millions, and to count them all would take
// what the relay needs.
const CountMax = 10_000

// backlogEvery is how many times as long as [RelayConfig.Balance] a count is good for.
const backlogEvery = 5

// backlog is what waits in the lanes that a relay owns, for Prometheus. The age is
// that of the moment it is asked for: while the broker is away nobody counts anew, and
// it must go on growing.
type backlog struct {
	waiting, oldest *prometheus.Desc

	mu    sync.Mutex
	lanes []laneBacklog
}

type laneBacklog struct {
	lane    int
	waiting int
	since   time.Time // when the oldest was written, by this machine's clock; zero: none waits
}

func newBacklog(labels prometheus.Labels) *backlog {
	return &backlog{
		waiting: prometheus.NewDesc("countermand_outbox_waiting", "Messages of a lane that wait for the broker, up to 10,000.", []string{"lane"}, labels),
		oldest:  prometheus.NewDesc("countermand_outbox_oldest_seconds", "Age of the oldest message of a lane that waits; 0 when there is none.", []string{"lane"}, labels),
	}
}

// Describe implements [prometheus.Collector].
func (b *backlog) Describe(to chan<- *prometheus.Desc) { to <- b.waiting; to <- b.oldest }

// Collect implements [prometheus.Collector].
func (b *backlog) Collect(to chan<- prometheus.Metric) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lanes {
		age, lane := 0.0, strconv.Itoa(l.lane)
		if !l.since.IsZero() {
			age = max(0, time.Since(l.since).Seconds())
		}
		to <- prometheus.MustNewConstMetric(b.waiting, prometheus.GaugeValue, float64(l.waiting), lane)
		to <- prometheus.MustNewConstMetric(b.oldest, prometheus.GaugeValue, age, lane)
	}
}

func (b *backlog) set(lanes []laneBacklog) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lanes = lanes
}

// count reads what waits in those lanes. Of a lane the row of the lowest id stands for
// the oldest one.
func (b *backlog) count(ctx context.Context, conn *pgx.Conn, lanes []int) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	rows, _ := conn.Query(ctx, `
		select l.lane, w.n, extract(epoch from clock_timestamp() - o.created_at)::float8
		from unnest($1::smallint[]) as l (lane)
		cross join lateral (
			select count(*)::integer as n from (select from outbox where outbox.lane = l.lane limit $2) as first
		) as w
		left join lateral (
			select created_at from outbox where outbox.lane = l.lane order by id limit 1
		) as o on true`, lanes, CountMax)
	var (
		all []laneBacklog
		one laneBacklog
		age *float64
	)
	now := time.Now()
	_, err := pgx.ForEachRow(rows, []any{&one.lane, &one.waiting, &age}, func() error {
		if one.since = (time.Time{}); age != nil {
			one.since = now.Add(-time.Duration(*age * float64(time.Second)))
		}
		all = append(all, one)
		return nil
	})
	if err != nil {
		return fmt.Errorf("count what waits: %w", err)
	}
	b.set(all)
	return nil
}

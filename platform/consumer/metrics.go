package consumer

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/events"
)

// feedMetrics has one set of children per consumer, resolved once.
type feedMetrics struct {
	handled, failures, splits prometheus.Counter
	batches, seconds, delay   prometheus.Histogram
	dead, redriven            *prometheus.CounterVec
	rebuilt                   prometheus.Counter
	lag                       *prometheus.GaugeVec // by topic
	oldest, parked            prometheus.GaugeFunc
	watch                     *atomic.Pointer[lookout] // what they ask; nil while no partition is held
}

// idle says that no partition is held: who holds them tells of them.
func (m feedMetrics) idle(topics []events.Topic) {
	m.watch.Store(nil)
	for _, topic := range topics {
		m.lag.WithLabelValues(string(topic)).Set(0)
	}
}

func newFeedMetrics(name string) feedMetrics {
	labels := prometheus.Labels{"consumer": name}
	counter := func(metric, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: metric, Help: help, ConstLabels: labels})
	}
	histogram := func(metric, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: metric, Help: help, ConstLabels: labels, Buckets: buckets})
	}
	vector := func(metric, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: metric, Help: help, ConstLabels: labels}, []string{label})
	}
	watch := new(atomic.Pointer[lookout])
	watched := func(metric, help string, figure func(*lookout) float64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: metric, Help: help, ConstLabels: labels}, func() float64 {
			if l := watch.Load(); l != nil {
				return figure(l)
			}
			return 0
		})
	}
	return feedMetrics{
		watch: watch,
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "countermand_consumer_lag", ConstLabels: labels,
			Help: "Messages stored after what is handled, in the partitions of this process, when it last looked.",
		}, []string{"topic"}),
		oldest:   watched("countermand_consumer_oldest_seconds", "Age of the oldest delivery in hand; 0 when there is none.", (*lookout).oldest),
		parked:   watched("countermand_consumer_parked_keys", "Partition keys held by a dead letter.", (*lookout).parked),
		rebuilt:  counter("countermand_consumer_rebuilt_total", "Times that readers which had stopped delivering were made anew."),
		dead:     vector("countermand_consumer_dead_letters_total", "Events that became dead letters.", "reason"),
		redriven: vector("countermand_consumer_redriven_total", "Dead letters that were handled again, by what became of them.", "outcome"),
		handled:  counter("countermand_consumer_handled_total", "Deliveries handled and committed."),
		failures: counter("countermand_consumer_failures_total", "Deliveries that failed and are tried again."),
		splits:   counter("countermand_consumer_splits_total", "Batches whose transaction failed and was split."),
		batches:  histogram("countermand_consumer_batch_size", "Deliveries per transaction.", prometheus.ExponentialBuckets(1, 2, 10)),
		seconds:  histogram("countermand_consumer_batch_seconds", "Time to process one batch.", prometheus.ExponentialBuckets(0.0005, 2, 14)),
		delay:    histogram("countermand_consumer_delay_seconds", "Age of the oldest delivery of a batch when it was committed.", prometheus.ExponentialBuckets(0.001, 2, 16)),
	}
}

func (m feedMetrics) register(r prometheus.Registerer) {
	r.MustRegister(m.handled, m.failures, m.splits, m.batches, m.seconds, m.delay, m.dead, m.redriven, m.parked, m.rebuilt, m.lag, m.oldest)
}

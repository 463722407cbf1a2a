package webhook

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the webhooks of one process. No label names a tenant or a subscription:
// there may be any number of those.
type metrics struct {
	matched       prometheus.Counter
	attempts      *prometheus.CounterVec
	seconds       prometheus.Histogram
	outcomes      *prometheus.CounterVec
	handshakes    *prometheus.CounterVec
	inFlight      prometheus.Gauge
	backlog, dead prometheus.Gauge
	oldest        prometheus.Gauge
	subscriptions *prometheus.GaugeVec
}

func newMetrics() *metrics {
	m := &metrics{
		matched: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "countermand_webhook_matched_total", Help: "Deliveries made of events that a subscription wanted.",
		}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_webhook_attempts_total", Help: "Requests to sinks by what came back.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "countermand_webhook_attempt_seconds", Help: "How long a request to a sink took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12), // 1 ms to 24 s
		}),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_webhook_deliveries_total", Help: "Attempts by the state of their delivery afterwards.",
		}, []string{"state"}),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_webhook_handshakes_total", Help: "Questions to sinks whether they agree, by what came back.",
		}, []string{"result"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "countermand_webhook_in_flight", Help: "Requests to sinks under way.",
		}),
		backlog: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "countermand_webhook_pending", Help: "Deliveries of the database that have not ended, when it was last counted.",
		}),
		dead: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "countermand_webhook_dead", Help: "Dead letters of the database, when they were last counted.",
		}),
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "countermand_webhook_oldest_seconds", Help: "Age of the oldest delivery that has not ended, when it was last looked at.",
		}),
		subscriptions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "countermand_webhook_subscriptions", Help: "Subscriptions of the database by state, when they were last counted.",
		}, []string{"state"}),
	}
	for _, state := range []string{DeliveryPending, DeliveryDelivered, DeliveryDead} {
		m.outcomes.WithLabelValues(state) // so that they are there before the first
	}
	return m
}

func (m *metrics) register(r prometheus.Registerer) {
	r.MustRegister(m.matched, m.attempts, m.seconds, m.outcomes, m.handshakes, m.inFlight, m.backlog, m.dead, m.oldest, m.subscriptions)
}

// ended counts an attempt by the state that its delivery has now; empty when somebody
// else had decided over it.
func (m *metrics) ended(state string) {
	if state != "" {
		m.outcomes.WithLabelValues(state).Inc()
	}
}

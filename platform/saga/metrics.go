package saga

import "github.com/prometheus/client_golang/prometheus"

// engineMetrics. Labels are bounded by the definitions and by fixed words.
type engineMetrics struct {
	inputs      *prometheus.CounterVec
	transitions *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	conflicts   prometheus.Counter
}

func newEngineMetrics() engineMetrics {
	return engineMetrics{
		inputs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_saga_inputs_total", Help: "Events and timers by what they did to their saga.",
		}, []string{"verdict"}),
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_saga_status_total", Help: "Sagas that entered a status.",
		}, []string{"saga", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "countermand_saga_seconds", Help: "Time from the start of a saga to its end.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 16),
		}, []string{"saga"}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "countermand_saga_conflicts_total", Help: "Batches decided anew because another engine was faster.",
		}),
	}
}

func (m engineMetrics) register(r prometheus.Registerer) {
	r.MustRegister(m.inputs, m.transitions, m.seconds, m.conflicts)
}

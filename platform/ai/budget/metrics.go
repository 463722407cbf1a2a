package budget

import "github.com/prometheus/client_golang/prometheus"

// metrics of a keeper. Their labels are bounded: no tenant, budget or model.
type metrics struct {
	reserved     *prometheus.CounterVec // by where from
	fromMemory   prometheus.Counter
	fromDatabase prometheus.Counter
	refused      *prometheus.CounterVec // by code
	attempts     *prometheus.CounterVec // by how they ended
	lost         prometheus.Counter
	spent        prometheus.Counter
	written      prometheus.Counter
	reclaimed    prometheus.Counter
}

func newMetrics() metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "countermand_ai_budget_" + name, Help: help})
	}
	vector := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "countermand_ai_budget_" + name, Help: help}, []string{label})
	}
	m := metrics{
		reserved:  vector("reservations_total", "Reservations that wanted something of a budget, by what gave it: memory or the database.", "from"),
		refused:   vector("refused_total", "Calls that were not let through, by the reason.", "code"),
		attempts:  vector("attempts_total", "Attempts that ended, by how.", "state"),
		lost:      counter("uncertain_total", "Attempts of which nobody knows what they have cost, whatever the policy made of them."),
		spent:     counter("spent_usd_total", "What settled attempts have cost by the price list, in US dollars."),
		written:   counter("books_written_total", "Changes of attempts that were written into the books."),
		reclaimed: counter("holders_reclaimed_total", "Processes whose leases were taken back because they had died."),
	}
	m.fromMemory, m.fromDatabase = m.reserved.WithLabelValues("memory"), m.reserved.WithLabelValues("database")
	for _, s := range []state{settled, released, uncertain} {
		m.attempts.WithLabelValues(string(s))
	}
	for _, c := range []Code{BudgetExhausted, RateLimited, PriceUnknown, CallCap, Unavailable} {
		m.refused.WithLabelValues(string(c))
	}
	return m
}

func (k *Keeper) register(registerer prometheus.Registerer) {
	if registerer == nil {
		return
	}
	registerer.MustRegister(k.reserved, k.refused, k.attempts, k.lost, k.spent, k.written, k.reclaimed,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "countermand_ai_budget_books_behind", Help: "Changes of attempts that are not in the books yet.",
		}, func() float64 {
			k.mu.Lock()
			defer k.mu.Unlock()
			return float64(len(k.queue))
		}))
}

// count counts an attempt that has ended.
func (k *Keeper) count(a *Attempt) {
	if a.state == dispatched {
		return
	}
	k.attempts.WithLabelValues(string(a.state)).Inc()
	k.spent.Add(float64(a.cost) / 1e9)
}

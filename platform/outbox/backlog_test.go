package outbox_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
)

// gauges returns the values of a gauge, by lane.
func gauges(t *testing.T, registry *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]float64)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "lane" {
					found[label.GetValue()] = metric.GetGauge().GetValue()
				}
			}
		}
	}
	return found
}

func sum(of map[string]float64) (total float64) {
	for _, n := range of {
		total += n
	}
	return total
}

func TestRelayTellsWhatWaitsInItsLanes(t *testing.T) {
	t.Parallel()
	r := setup(t)
	registry := prometheus.NewRegistry()
	r.broker.bend(func(broker.Message) error { return broker.ErrUnavailable }, nil)
	_, stop := r.relay("relay", outbox.RelayConfig{Metrics: registry})
	r.write(series("a", 0, 30)...)
	r.write(series("b", 0, 20)...)
	if _, err := r.Exec(t.Context(), "update outbox set created_at = clock_timestamp() - interval '1 hour' where position('a/'::bytea in attributes) > 0"); err != nil {
		t.Fatal(err)
	}
	r.await("all are counted", func() bool { return sum(gauges(t, registry, "countermand_outbox_waiting")) == 50 })
	r.await("the oldest is an hour old", func() bool {
		age := sum(gauges(t, registry, "countermand_outbox_oldest_seconds"))
		return age >= 3600 && age < 3700
	})
	if n := len(gauges(t, registry, "countermand_outbox_waiting")); n != outbox.Lanes {
		t.Errorf("%d lanes are told of, want those it owns: %d", n, outbox.Lanes)
	}
	before := sum(gauges(t, registry, "countermand_outbox_oldest_seconds"))
	time.Sleep(time.Millisecond) // nobody counts so soon
	if after := sum(gauges(t, registry, "countermand_outbox_oldest_seconds")); after <= before {
		t.Errorf("the oldest was %f s old and then %f", before, after)
	}
	r.broker.bend(nil, nil)
	r.awaitEmpty()
	r.await("none waits any more", func() bool {
		return sum(gauges(t, registry, "countermand_outbox_waiting"))+sum(gauges(t, registry, "countermand_outbox_oldest_seconds")) == 0
	})
	stop()
	if left := gauges(t, registry, "countermand_outbox_waiting"); len(left) != 0 {
		t.Errorf("a relay that has stopped tells of %v", left)
	}
}

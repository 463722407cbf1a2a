package webhook_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/webhook"
)

// BenchmarkDeliver sends what waits for one subscription to a sink that answers at once,
// with sixteen requests at a time: fetching, signing, sending and recording.
func BenchmarkDeliver(b *testing.B) {
	r := setup(b)
	sink := receive(b, nil)
	s := r.active(sink.URL, func(s *webhook.Subscription) { s.Config = map[string]string{"concurrency": "16"} })
	const each = 64
	for i := 0; i < b.N; i += each {
		all := make([]events.Event, 0, each)
		for j := i; j < min(i+each, b.N); j++ {
			all = append(all, fact(b, strconv.Itoa(j), strconv.Itoa(j)))
		}
		r.match(all...)
	}
	b.ResetTimer()
	r.send()
	until(b, "everything is delivered", func() bool {
		time.Sleep(5 * time.Millisecond)
		var n int
		if err := r.pool.QueryRow(b.Context(), "select count(*) from webhook_delivery where subscription = $1 and state <> 'pending'", s.ID).Scan(&n); err != nil {
			b.Fatal(err)
		}
		return n == b.N
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
}

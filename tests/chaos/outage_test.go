package chaos

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// TestGatewaysAndBrokerDieInTurns kills two gateways and the NATS server, each a
// process of its own, one after the other and at last together, while orders come
// in at a steady rate. Whatever was answered is accounted for, and whoever got no
// answer comes again with the same Idempotency-Key, at the other gateway.
func TestGatewaysAndBrokerDieInTurns(t *testing.T) {
	t.Parallel()
	const (
		seed   = 13
		most   = 4000
		every  = 15 * time.Millisecond
		second = "gateway-2"
	)
	rounds := 2
	if testing.Short() {
		rounds = 1
	}
	dir := filepath.Join(t.TempDir(), "data")
	nats := startNATS(t, filepath.Join(dir, "nats"))
	f := startFleetOn(t, dir, nats.url)
	f.logs[second] = openLog(t, t.TempDir(), second)
	f.serve(t, second)
	gateways := []string{"gateway", second}
	shop := product.NewShop(f.processes["gateway"].HTTP)
	p := newPatient(newOrders(most, seed), t.Errorf, shop, product.NewShop(f.processes[second].HTTP))

	enough, placed := make(chan struct{}), make(chan []*order, 1) // the one result
	stop := sync.OnceFunc(func() { close(enough) })
	t.Cleanup(stop)
	go func() { placed <- p.run(t.Context(), every, enough) }()
	const busy, more = 3, 20
	for round := range rounds {
		for i, gateway := range gateways {
			p.awaitOpen(t, i, busy)
			f.processes[gateway].Kill()
			f.serve(t, gateway)
			p.awaitAnswers(t, more)

			// What has reached the server when it dies, and is not on its disk yet, is lost.
			p.awaitOpen(t, i, busy)
			nats.freeze(t)
			p.awaitOpen(t, i, p.open[i].Load()+busy)
			nats.kill()
			nats.start(t)
			p.awaitAnswers(t, more)
		}
		t.Logf("round %d: %d orders are answered, %d requests failed", round, p.answered.Load(), p.failed.Load())
	}
	p.awaitOpen(t, 0, busy)
	nats.freeze(t)
	p.awaitOpen(t, 0, p.open[0].Load()+busy)
	nats.kill()
	for _, gateway := range gateways {
		f.processes[gateway].Kill()
	}
	nats.start(t)
	for _, gateway := range gateways {
		f.serve(t, gateway)
	}
	p.awaitAnswers(t, more)
	stop()

	orders := <-placed
	t.Logf("%d orders are answered, %d requests failed, %d of them had started an operation", len(orders), p.failed.Load(), p.found.Load())
	if p.failed.Load() == 0 || p.found.Load() == 0 {
		t.Errorf("%d requests failed and %d had started an operation: the kills hit nothing", p.failed.Load(), p.found.Load())
	}
	awaitEnd(t, orders, shop, time.Minute)
	verify(t, orders, shop, product.NewOperator(f.processes["engine"].Admin))
	if err := f.processes[second].Stop(); err != nil {
		t.Errorf("%s: %v", second, err)
	}
	f.stop(t)
}

package kafkatest_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/countermand/countermand/platform/broker/kafkabroker"
)

// A server that starts anew has broken every connection in the pool. Were they found
// out one by one, a reader would be away for as many rests.
func TestOneBrokenConnectionTellsOfTheOthers(t *testing.T) {
	t.Parallel()
	const together = 16
	f := fake(t)
	var dialed atomic.Int64
	b := connect(t, f.Addr(), func(c *kafkabroker.Config) {
		c.DuplicateWindow = 0
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dialed.Add(1)
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	})
	for dialed.Load() < together/2 {
		var pings sync.WaitGroup
		for range together {
			pings.Go(func() {
				if err := b.Ping(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		pings.Wait()
	}
	if err := f.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for b.Ping(t.Context()) != nil {
		if failed++; failed == together {
			t.Fatalf("%d requests failed, one for each of %d connections", failed, dialed.Load())
		}
	}
	if failed > 2 { // one more may have begun on an old connection
		t.Errorf("%d requests failed after the server was there again", failed)
	}
}

package webhook

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"
)

func TestLimitersOfSubscriptionsThatAreNotServedAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		perMinute := 60
		s := &Sender{limiters: make(map[uuid.UUID]*rate.Limiter)}
		turn := &turn{sender: s, running: make(map[uuid.UUID]*job)}
		gone, busy := &row{id: uuid.New(), allowedRate: &perMinute}, &row{id: uuid.New(), allowedRate: &perMinute}
		s.limiter(gone).Allow()
		s.limiter(busy).Allow()
		turn.running[busy.id] = &job{}
		time.Sleep(time.Second / 2)
		turn.forget()
		if len(s.limiters) != 2 {
			t.Fatalf("%d limiters, want 2: one that still holds back was forgotten", len(s.limiters))
		}
		time.Sleep(time.Second)
		turn.forget()
		if len(s.limiters) != 1 || s.limiters[busy.id] == nil {
			t.Errorf("%v, want the busy one's only", s.limiters)
		}
	})
}

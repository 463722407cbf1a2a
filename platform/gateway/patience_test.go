package gateway

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const timeout = 64 * time.Millisecond
		p := patience{timeout: timeout}
		began := time.Now()
		made := 0
		for last := p.context(began); time.Since(began) < time.Second; time.Sleep(100 * time.Microsecond) {
			ctx := p.context(time.Now())
			if ctx != last {
				made++
			}
			last = ctx
			end, _ := ctx.Deadline()
			if left := time.Until(end); left < timeout || left > timeout+time.Millisecond {
				t.Fatalf("a wait lasts %s, want %s and at most a millisecond more", left, timeout)
			}
		}
		if made > 1000 {
			t.Errorf("%d contexts in a second", made)
		}
		ctx := p.context(time.Now())
		time.Sleep(timeout + time.Millisecond)
		synctest.Wait()
		if ctx.Err() == nil {
			t.Error("the wait does not end")
		}
	})
}

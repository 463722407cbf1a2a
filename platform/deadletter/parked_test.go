package deadletter_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/deadletter"
)

func states(letters []deadletter.Summary) string {
	all := make([]string, len(letters))
	for i, l := range letters {
		all[i] = string(l.State)
	}
	return strings.Join(all, " ")
}

func TestParkedKey(t *testing.T) {
	t.Parallel()
	t.Run("later messages of the key wait untried, others do not, and a redrive releases them in order", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{ParkKeys: true})
		s.fail(never, "a1")
		s.send("k", "a1", "a2", "a3")
		s.send("other", "b1")
		s.wantPainted("b1")
		letters := s.letters(3)
		if got := states(letters); got != "dead parked parked" || !letters[0].HoldsKey {
			t.Fatalf("letters are %s: %+v", got, letters[0])
		}
		// One of another key, whose turn comes after theirs, shows that they were passed over.
		s.fail(never, "c1")
		s.send("third", "c1")
		last := s.letters(4)[3]
		s.fail(nil, "c1")
		s.redrive(last)
		s.wantPainted("b1", "c1")
		second, err := s.store.Get(t.Context(), number(t, letters[1]))
		if err != nil || second.Behind != letters[0].ID || second.Attempts != 0 {
			t.Errorf("%+v, %v", second, err)
		}
		_, err = s.store.Redrive(t.Context(), number(t, letters[1]), byAda)
		wantRefused(t, err, "dead_letter_parked")
		s.send("k", "a4") // comes when the key is parked already
		s.letters(4)
		s.fail(nil, "a1")
		s.redrive(letters[0])
		s.wantPainted("b1", "c1", "a1", "a2", "a3", "a4")
		s.letters(0)
		s.send("k", "a5") // and the key is free again
		s.wantPainted("b1", "c1", "a1", "a2", "a3", "a4", "a5")
	})
	t.Run("a discard releases them as well", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{ParkKeys: true})
		s.fail(never, "a1")
		s.send("k", "a1", "a2", "a3")
		if _, err := s.store.Discard(t.Context(), number(t, s.letters(3)[0]), byAda); err != nil {
			t.Fatal(err)
		}
		s.wantPainted("a2", "a3")
		s.letters(0)
	})
	t.Run("one that dies on the way holds the rest", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{ParkKeys: true})
		s.fail(never, "a1", "a3")
		s.send("k", "a1", "a2", "a3", "a4")
		first := s.letters(4)[0]
		s.fail(nil, "a1")
		s.redrive(first)
		s.wantPainted("a1", "a2")
		letters := s.letters(2)
		s.awaitState(number(t, letters[0]), deadletter.Dead, 0)
		if got := states(s.letters(2)); got != "dead parked" {
			t.Errorf("letters are %s", got)
		}
		s.fail(nil, "a3")
		s.redrive(letters[0])
		s.wantPainted("a1", "a2", "a3", "a4")
	})
	t.Run("one that rests after a failure holds the rest meanwhile", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{ParkKeys: true, AttemptsMax: 1000})
		s.fail(never, "a1")
		s.send("k", "a1", "a2")
		letters := s.letters(2)
		healed := make(chan struct{})
		tried := make(chan struct{}, 1000)
		s.fail(func(context.Context) error {
			tried <- struct{}{}
			select {
			case <-healed:
				return nil
			default:
				return errOut
			}
		}, "a1")
		s.redrive(letters[0])
		for range 3 {
			<-tried
		}
		s.wantPainted()
		close(healed)
		s.wantPainted("a1", "a2")
	})
	t.Run("it stays parked when another process takes over", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{ParkKeys: true, Idle: true})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.NewFeed().Run(ctx) }()
		s.fail(never, "a1")
		s.send("k", "a1")
		letters := s.letters(1)
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		s.send("k", "a2")
		s.Feed()
		s.send("other", "b1")
		s.letters(2)
		s.wantPainted("b1")
		s.fail(nil, "a1")
		s.redrive(letters[0])
		s.wantPainted("b1", "a1", "a2")
	})
	t.Run("order holds while messages keep coming", func(t *testing.T) {
		t.Parallel()
		s := setup(t, consumertest.Config{ParkKeys: true})
		s.fail(never, "0000")
		names := make([]string, 200)
		for n := range names {
			names[n] = string([]byte{'0', '0' + byte(n/100), '0' + byte(n/10%10), '0' + byte(n%10)})
		}
		s.send("k", names[0])
		l := s.letters(1)[0]
		s.fail(nil, "0000")
		sending := make(chan struct{})
		go func() {
			defer close(sending)
			for i, name := range names[1:] {
				if i == 20 {
					s.redrive(l)
				}
				s.send("k", name)
				time.Sleep(time.Millisecond)
			}
		}()
		<-sending
		s.wantPainted(names...)
		s.letters(0)
	})
}

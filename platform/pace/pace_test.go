package pace_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/countermand/countermand/platform/pace"
)

func TestPace(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		took    time.Duration
		handled int
		later   time.Duration
		waiting int
		want    time.Duration
	}{
		"a round of more rests as long":     {2 * time.Millisecond, 500, 0, 3, 6 * time.Millisecond},
		"some of the rest is over":          {2 * time.Millisecond, 17, 4 * time.Millisecond, 3, 2 * time.Millisecond},
		"a slow round rests for the most":   {time.Second, 17, 0, 3, 10 * time.Millisecond},
		"a round of one does not rest":      {time.Second, 1, 0, 3, 0},
		"a round of many rests as long":     {2 * time.Millisecond, 17, 0, 3, 6 * time.Millisecond},
		"a round of few rests for less":     {2 * time.Millisecond, 5, 0, 3, 1500 * time.Microsecond},
		"a slow round of few as well":       {time.Second, 9, 0, 3, 5 * time.Millisecond},
		"enough waits":                      {2 * time.Millisecond, 17, 0, 32, 0},
		"the rest was over before it began": {0, 17, 0, 3, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := pace.Pace{Factor: 3, Max: 10 * time.Millisecond, Many: 17, Full: 32}
				if rest := p.Rest(1); rest != 0 {
					t.Errorf("a rest of %s before the first round", rest)
				}
				began := time.Now()
				time.Sleep(test.took)
				p.Ended(began, test.handled)
				time.Sleep(test.later)
				if got := p.Rest(test.waiting); got != test.want {
					t.Errorf("rest of %s, want %s", got, test.want)
				}
			})
		})
	}
}

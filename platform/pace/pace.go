// Package pace spaces the rounds of a loop of which each has a fixed cost, such
// as a commit. A loop that begins its next round at once handles few things in
// each, and when many such loops share a machine their fixed costs fill it: all
// of them wait, and none is faster for having begun early. One that rests for a
// little longer than its last round took finds more to do, and leaves the machine
// to the others. How long rounds take tells how busy the machine is, and how many
// things they handle how much there is to do: a loop with a machine to itself hardly
// rests, and neither does one to which little comes.
package pace

import "time"

// Pace is the pace of one loop. The zero value never rests. It is not safe for
// concurrent use.
type Pace struct {
	// Factor is how many times as long as its last round the loop rests at most.
	Factor float64
	// Max bounds a rest.
	Max time.Duration
	// Many is how many things a round must have handled for the whole rest. After
	// fewer it is shorter in proportion; 0: it never is.
	Many int
	// Full is how many things make a round worth its cost at once; 0: any number
	// waits.
	Full int

	next time.Time
}

// Ended says that a round has ended which began at that time and handled n
// things. After a round of one there is no rest: nothing was shared, and a
// machine that is idle should answer at once.
func (p *Pace) Ended(began time.Time, n int) {
	p.next = time.Time{}
	if n <= 1 || p.Max <= 0 {
		return
	}
	now := time.Now()
	rest := min(time.Duration(p.Factor*float64(now.Sub(began))), p.Max)
	if n < p.Many {
		rest = rest * time.Duration(n-1) / time.Duration(p.Many-1)
	}
	p.next = now.Add(rest)
}

// Rest returns for how long the loop is still to rest, when n things wait: 0 or
// less means not at all.
func (p *Pace) Rest(n int) time.Duration {
	if p.next.IsZero() || p.Full > 0 && n >= p.Full {
		return 0
	}
	return time.Until(p.next)
}

package natsbroker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/pace"
)

// line is the way into one stream. The server stores the batches of a stream one
// after the other, each at a fixed cost, so what comes while one is on its way
// waits here and forms the next, whoever it comes from. A batch that is worth its cost
// does not wait for the one before it to be stored: the server gets it meanwhile.
type line struct {
	broker *Broker

	mu       sync.Mutex
	waiting  []*parcel
	letters  int  // of those
	running  bool // somebody sends what waits
	underWay int  // atomic batches that are sent and not yet stored
	pace     pace.Pace
	news     chan struct{} // capacity 1: enough waits for a batch, or one is stored
}

// parcel is what one call publishes. Its caller may leave it when its context
// ends, so it shares nothing with the caller that is written.
type parcel struct {
	ctx      context.Context // of the call, which bounds a batch that is its own
	letters  []letter
	whole    bool // all letters are to be stored or none
	receipts []broker.Receipt
	done     chan struct{} // closed when the receipts are there
}

const (
	// restFactor is how many times as long as its last atomic batch a line rests.
	restFactor = 2
	// many is how many messages a batch must have held for a whole rest.
	many = 16
	// full is how many messages make a batch worth its fixed cost at once.
	full = 128
	// underWayMax is how many atomic batches are on their way at once.
	underWayMax = 2
)

func (b *Broker) line(stream string) *line {
	b.linesMu.Lock()
	defer b.linesMu.Unlock()
	l, ok := b.lines[stream]
	if !ok {
		l = &line{broker: b, pace: pace.Pace{Factor: restFactor, Max: b.config.RestMax, Many: many, Full: full}, news: make(chan struct{}, 1)}
		b.lines[stream] = l
	}
	return l
}

// publish stores letters and returns a receipt for each.
func (l *line) publish(ctx context.Context, letters []letter, whole bool) []broker.Receipt {
	p := &parcel{ctx: ctx, letters: letters, whole: whole, done: make(chan struct{})}
	l.enter(p)
	select {
	case <-p.done:
		return p.receipts
	case <-ctx.Done():
	}
	l.leave(p)
	receipts := make([]broker.Receipt, len(letters))
	for i := range letters {
		receipts[i] = letters[i].receipt(pubAck{}, fmt.Errorf("%w: %w", broker.ErrUnavailable, ctx.Err()))
	}
	return receipts
}

func (l *line) enter(p *parcel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, p)
	before := l.letters
	l.letters += len(p.letters)
	switch {
	case !l.running:
		l.running = true
		go l.run() // until nothing waits
	case before < full && l.letters >= full:
		l.tell()
	}
}

// leave takes a parcel out whose caller waits no more, unless it is on its way.
func (l *line) leave(p *parcel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := slices.Index(l.waiting, p); at >= 0 {
		l.waiting = slices.Delete(l.waiting, at, at+1)
		l.letters -= len(p.letters)
	}
}

// tell wakes the line, if it rests.
func (l *line) tell() {
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// run sends what waits, in the order in which it came, until nothing does.
func (l *line) run() {
	for {
		parcels, atomic := l.next()
		switch {
		case parcels == nil:
			return
		case !atomic:
			l.broker.send(parcels, false, nil)
			deliver(parcels)
		default:
			sent := make(chan struct{})
			go l.sendAtomically(parcels, sent)
			<-sent // a batch does not overtake another one on the wire
		}
	}
}

func (l *line) sendAtomically(parcels []*parcel, sent chan struct{}) {
	began := time.Now()
	l.broker.send(parcels, true, sync.OnceFunc(func() { close(sent) }))
	deliver(parcels)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.underWay--
	l.pace.Ended(began, lettersOf(parcels))
	l.tell()
}

// deliver lets the callers have their receipts.
func deliver(parcels []*parcel) {
	for _, p := range parcels {
		for i := range p.letters {
			p.letters[i].release()
		}
		close(p.done)
	}
}

// next waits until the next batch is worth its fixed cost and takes it. It returns
// none when nothing waits.
func (l *line) next() (parcels []*parcel, atomic bool) {
	for {
		l.mu.Lock()
		if len(l.waiting) == 0 {
			l.running = false
			l.mu.Unlock()
			return nil, false
		}
		rest := l.rest()
		if rest <= 0 {
			parcels = l.take()
			if atomic = l.broker.atomic(parcels); atomic {
				l.underWay++
			}
			l.mu.Unlock()
			return parcels, atomic
		}
		l.mu.Unlock()
		timer := time.NewTimer(rest)
		select {
		case <-l.news:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// rest returns for how long to wait, unless there is news. A second batch goes out only
// when it is large: it must not take from the next one what makes that worth its cost.
func (l *line) rest() time.Duration {
	if l.underWay == underWayMax || l.underWay > 0 && l.letters < full {
		return time.Hour // there will be news
	}
	return l.pace.Rest(l.letters)
}

func lettersOf(parcels []*parcel) (n int) {
	for _, p := range parcels {
		n += len(p.letters)
	}
	return n
}

// take returns the parcels of the next batch, in the order in which they came. No
// publish id is in it twice: the server would refuse the batch as a whole.
func (l *line) take() []*parcel {
	n, size := 0, 0
	seen := make(map[string]bool)
	for ; n < len(l.waiting); n++ {
		p := l.waiting[n]
		if n > 0 && size+len(p.letters) > broker.BatchMessagesMax {
			break
		}
		if len(l.waiting) > 1 {
			twice := false
			for i := range p.letters {
				id := p.letters[i].publishID
				twice = twice || id != "" && seen[id]
			}
			if twice && n > 0 {
				break
			}
			for i := range p.letters {
				if id := p.letters[i].publishID; id != "" {
					seen[id] = true
				}
			}
		}
		size += len(p.letters)
	}
	parcels := slices.Clone(l.waiting[:n])
	l.waiting = slices.Delete(l.waiting, 0, n)
	l.letters -= size
	return parcels
}

package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/pace"
)

// line is the way into one stream. The server stores the batches of a stream one
// after the other, each at a fixed cost, so what comes while one is on its way
// waits here and forms the next, whoever it comes from.
type line struct {
	broker *Broker

	mu      sync.Mutex
	waiting []*parcel
	busy    bool // somebody leads
	pace    pace.Pace
}

// parcel is what one call publishes. Its caller may leave it when its context
// ends, so it shares nothing with the caller that is written.
type parcel struct {
	ctx      context.Context // of the call, which bounds a batch that is its own
	letters  []letter
	whole    bool // all letters are to be stored or none
	receipts []broker.Receipt
	turn     chan bool // capacity 1: true means to lead, false that the receipts are there
	leads    bool
	left     bool
}

const (
	// restFactor is how many times as long as its last atomic batch a line rests.
	restFactor = 2
	// full is how many messages make a batch worth its fixed cost at once.
	full = 128
)

func (b *Broker) line(stream string) *line {
	b.linesMu.Lock()
	defer b.linesMu.Unlock()
	l, ok := b.lines[stream]
	if !ok {
		l = &line{broker: b, pace: pace.Pace{Factor: restFactor, Max: b.config.RestMax, Full: full}}
		b.lines[stream] = l
	}
	return l
}

// publish stores letters and returns a receipt for each. The first caller to come
// leads: it sends for all who wait, and then makes the next one lead.
func (l *line) publish(ctx context.Context, letters []letter, whole bool) []broker.Receipt {
	p := &parcel{ctx: ctx, letters: letters, whole: whole, turn: make(chan bool, 1)}
	l.mu.Lock()
	l.waiting = append(l.waiting, p)
	lead := !l.busy
	l.busy = true
	l.mu.Unlock()
	if !lead {
		select {
		case lead = <-p.turn:
		case <-ctx.Done():
			if !l.leave(p) {
				lead = <-p.turn // it leads, and nobody else will
				break
			}
			receipts := make([]broker.Receipt, len(letters))
			for i := range letters {
				receipts[i] = letters[i].receipt(pubAck{}, fmt.Errorf("%w: %w", broker.ErrUnavailable, ctx.Err()))
			}
			return receipts
		}
	}
	if lead {
		l.lead()
	}
	return p.receipts
}

// leave takes a parcel out whose caller waits no more. It reports false when the
// parcel leads.
func (l *line) leave(p *parcel) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.left = true
	l.waiting = slices.DeleteFunc(l.waiting, func(other *parcel) bool { return other == p && !p.leads })
	return !p.leads
}

// lead sends one batch, the leader's parcel first, and gives the lead away.
func (l *line) lead() {
	l.rest()
	l.mu.Lock()
	parcels := l.take()
	l.mu.Unlock()
	began := time.Now()
	atomic := l.broker.send(parcels)
	l.mu.Lock()
	defer l.mu.Unlock()
	if atomic {
		l.pace.Ended(began, lettersOf(parcels))
	}
	for _, p := range parcels[1:] {
		p.turn <- false
	}
	if l.busy = len(l.waiting) > 0; l.busy {
		l.waiting[0].leads = true
		l.waiting[0].turn <- true
	}
}

// rest waits, on a busy line, until the next batch is worth its fixed cost.
func (l *line) rest() {
	l.mu.Lock()
	rest := l.pace.Rest(lettersOf(l.waiting))
	l.mu.Unlock()
	time.Sleep(rest)
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
		if size += len(p.letters); n > 0 && size > broker.BatchMessagesMax {
			break
		}
		if len(l.waiting) == 1 {
			continue
		}
		twice := false
		for i := range p.letters {
			twice = twice || seen[p.letters[i].publishID]
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
	parcels := slices.Clone(l.waiting[:n])
	l.waiting = slices.Delete(l.waiting, 0, n)
	return parcels
}

// send publishes parcels, in one atomic batch if they are large enough together or
// one of them is a whole. When the server refuses that, each goes by itself: none has
// to suffer for what another one holds. It reports whether it tried an atomic batch.
func (b *Broker) send(parcels []*parcel) (atomic bool) {
	ctx, letters, whole := parcels[0].ctx, parcels[0].letters, parcels[0].whole
	if len(parcels) > 1 {
		ctx, letters = context.Background(), nil
		for _, p := range parcels {
			letters, whole = append(letters, p.letters...), whole || p.whole
		}
	}
	ctx, cancel := b.bound(ctx)
	defer cancel()
	var receipts []broker.Receipt
	var refused error
	if atomic = b.atomic(letters, whole); atomic {
		if receipts, refused = b.publishAtomically(ctx, letters); refused == nil {
			for _, p := range parcels {
				p.receipts, receipts = receipts[:len(p.letters):len(p.letters)], receipts[len(p.letters):]
			}
			return atomic
		}
	}
	for _, p := range parcels {
		tried := len(parcels) == 1 && atomic
		if !tried && len(parcels) > 1 && b.atomic(p.letters, p.whole) {
			p.receipts, refused = b.publishAtomically(ctx, p.letters)
			if refused == nil {
				continue
			}
			tried = true
		}
		if tried && p.whole && !separable(refused) {
			p.receipts = make([]broker.Receipt, len(p.letters))
			for n := range p.letters {
				p.receipts[n] = p.letters[n].receipt(pubAck{}, refused)
			}
			continue
		}
		p.receipts = b.publishSingly(ctx, p.letters)
	}
	return atomic
}

// atomic reports whether letters go out as one atomic batch.
func (b *Broker) atomic(letters []letter, whole bool) bool {
	return len(letters) >= b.config.AtomicFrom || whole && len(letters) > 1
}

// separable reports whether the letters of a whole that was refused may go one by one:
// the stream holds some of them already, or knows no atomic batches.
func separable(refused error) bool {
	var api *apiError
	return errors.Is(refused, errNoBatches) || errors.As(refused, &api) && api.ErrCode == errCodeDuplicateInBatch
}

// publishSingly publishes one message after the other and stops at the first
// that is not stored: a later one must not overtake it.
func (b *Broker) publishSingly(ctx context.Context, letters []letter) []broker.Receipt {
	receipts := make([]broker.Receipt, len(letters))
	for n := range letters {
		ack, err := b.request(ctx, letters[n].msg)
		receipts[n] = letters[n].receipt(ack, err)
		if err != nil {
			for later := n + 1; later < len(letters); later++ {
				receipts[later].Err = errEarlier
			}
			break
		}
	}
	return receipts
}

// errNoBatches means that the server took the messages and no batch.
var errNoBatches = errors.New("the server knows no atomic batches")

// publishAtomically publishes all messages as one atomic batch. Only the last
// one, the commit, is answered. A batch that the server refuses is not stored;
// which message is to blame the server does not say: it may be too large, or one
// whose publish id has been seen. Then they are to go one by one, where each gets
// an answer of its own.
func (b *Broker) publishAtomically(ctx context.Context, letters []letter) (receipts []broker.Receipt, refused error) {
	batch := nuid.Next()
	last := len(letters) - 1
	var ack pubAck
	var err error
	for n := range letters {
		header := letters[n].msg.Header
		header[headerBatchID] = []string{batch}
		header[headerBatchSequence] = []string{strconv.Itoa(n + 1)}
		if n == last {
			header[headerBatchCommit] = []string{"1"}
			ack, err = b.request(ctx, letters[n].msg)
		} else if err = b.conn.PublishMsg(letters[n].msg); err != nil {
			err = fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
			break
		}
	}
	var api *apiError
	if err == nil && ack.Batch != batch {
		err = errNoBatches
	}
	if errors.As(err, &api) || errors.Is(err, errNoBatches) {
		for n := range letters {
			header := letters[n].msg.Header
			delete(header, headerBatchID)
			delete(header, headerBatchSequence)
			delete(header, headerBatchCommit)
		}
		return nil, err
	}
	receipts = make([]broker.Receipt, len(letters))
	for n := range letters {
		receipts[n] = letters[n].receipt(pubAck{Sequence: ack.Sequence - uint64(last-n)}, err)
	}
	return receipts, nil
}

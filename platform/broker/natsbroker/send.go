package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nuid"

	"github.com/countermand/countermand/platform/broker"
)

// send publishes parcels, in one atomic batch if atomic says so. It calls sent when the
// server has got all of the batch but the message that commits it, or at its end.
func (b *Broker) send(parcels []*parcel, atomic bool, sent func()) {
	ctx := context.Background()
	if len(parcels) == 1 {
		ctx = parcels[0].ctx
	}
	ctx, cancel := b.bound(ctx)
	defer cancel()
	if !atomic {
		b.sendSingly(ctx, parcels)
		return
	}
	defer sent()
	b.sendTogether(ctx, parcels, sent)
}

// sendTogether publishes parcels in one atomic batch. When the server refuses that, it
// sends both halves by themselves, and so on: none has to suffer for what another one
// holds, nor wait until all have gone one by one.
func (b *Broker) sendTogether(ctx context.Context, parcels []*parcel, sent func()) {
	letters := make([]letter, 0, lettersOf(parcels))
	for _, p := range parcels {
		letters = append(letters, p.letters...)
	}
	receipts, refused := b.publishAtomically(ctx, letters, sent)
	switch {
	case refused == nil:
		for _, p := range parcels {
			p.receipts, receipts = receipts[:len(p.letters):len(p.letters)], receipts[len(p.letters):]
		}
	case errors.Is(refused, errNoBatches):
		b.sendSingly(ctx, parcels)
	case len(parcels) > 1:
		for _, half := range [][]*parcel{parcels[:len(parcels)/2], parcels[len(parcels)/2:]} {
			if b.atomic(half) {
				b.sendTogether(ctx, half, sent)
			} else {
				b.sendSingly(ctx, half)
			}
		}
	case parcels[0].whole && !separable(refused):
		p := parcels[0]
		p.receipts = make([]broker.Receipt, len(p.letters))
		for n := range p.letters {
			p.receipts[n] = p.letters[n].receipt(pubAck{}, refused)
		}
	default:
		b.sendSingly(ctx, parcels)
	}
}

func (b *Broker) sendSingly(ctx context.Context, parcels []*parcel) {
	for _, p := range parcels {
		p.receipts = b.publishSingly(ctx, p.letters)
	}
}

// atomic reports whether parcels go out as one atomic batch.
func (b *Broker) atomic(parcels []*parcel) bool {
	n := lettersOf(parcels)
	return n >= b.config.AtomicFrom || n > 1 && slices.ContainsFunc(parcels, func(p *parcel) bool { return p.whole })
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
		letters[n].expectStream()
		ack, err := b.request(ctx, &letters[n].msg)
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
// an answer of its own. sent is called
// before the commit goes out.
func (b *Broker) publishAtomically(ctx context.Context, letters []letter, sent func()) (receipts []broker.Receipt, refused error) {
	batch := nuid.Next()
	last := len(letters) - 1
	var ack pubAck
	var err error
	// One is enough: a batch is one stream's, and none is stored when one is refused.
	letters[0].expectStream()
	for n := range letters {
		one := &letters[n]
		one.set(headerBatchID, batch)
		one.set(headerBatchSequence, strconv.Itoa(n+1))
		if n == last {
			one.set(headerBatchCommit, "1")
			sent()
			ack, err = b.request(ctx, &one.msg)
		} else if err = b.conn.PublishMsg(&one.msg); err != nil {
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

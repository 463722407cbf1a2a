package natsbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/countermand/countermand/platform/broker"
)

// Header names of JetStream publishing; the batch ones are of ADR-50.
const (
	headerMsgID          = nats.MsgIdHdr
	headerExpectedStream = nats.ExpectedStreamHdr
	headerBatchID        = "Nats-Batch-Id"
	headerBatchSequence  = "Nats-Batch-Sequence"
	headerBatchCommit    = "Nats-Batch-Commit"
)

// errEarlier fails a message that must not overtake one that is not stored.
var errEarlier = fmt.Errorf("%w: an earlier message of the batch is not stored", broker.ErrUnavailable)

// errCodeMessageTooLarge is the JetStream API's error for a message beyond the
// stream's own limit.
const errCodeMessageTooLarge = 10054

// errCodeDuplicateInBatch is the error for an atomic batch with a publish id that the
// stream has seen.
const errCodeDuplicateInBatch = 10201

// batchHeaderBytes is what the headers of an atomic batch add to a message.
const batchHeaderBytes = 128

// PublishBatch implements [broker.Publisher]. Streams are independent of each
// other, so a batch that spans several is published to them at the same time.
func (b *Broker) PublishBatch(ctx context.Context, messages []broker.Message) []broker.Receipt {
	return b.publish(ctx, messages, false)
}

// PublishShared implements [broker.SharingPublisher].
func (b *Broker) PublishShared(ctx context.Context, message broker.Message) broker.Receipt {
	stream := streamName(message.Topic.Domain())
	one := b.encode(stream, &message)
	if one.err != nil {
		return one.receipt(pubAck{}, one.err)
	}
	return b.line(stream).publish(ctx, []letter{one}, false)[0]
}

func indexesOf(messages []broker.Message) []int {
	indexes := make([]int, len(messages))
	for i := range indexes {
		indexes[i] = i
	}
	return indexes
}

// PublishAtomically implements [broker.AtomicPublisher]: messages go out as one atomic
// batch, however few they are.
func (b *Broker) PublishAtomically(ctx context.Context, messages []broker.Message) []broker.Receipt {
	for i := range messages { // else what comes before a bad one would be stored
		one := b.encode("", &messages[i])
		one.release()
		if one.err != nil {
			receipts := make([]broker.Receipt, len(messages))
			notStored(indexesOf(messages), receipts)
			receipts[i] = one.receipt(pubAck{}, one.err)
			return receipts
		}
	}
	return b.publish(ctx, messages, true)
}

// publish publishes messages; whole says that those of one stream are one unit.
func (b *Broker) publish(ctx context.Context, messages []broker.Message, whole bool) []broker.Receipt {
	receipts := make([]broker.Receipt, len(messages))
	groups := make(map[string][]int)
	for i := range messages {
		domain := messages[i].Topic.Domain()
		groups[domain] = append(groups[domain], i)
	}
	var wait sync.WaitGroup
	for domain, indexes := range groups {
		publish := func() { b.publishToStream(ctx, streamName(domain), messages, indexes, receipts, whole) }
		if len(groups) == 1 {
			publish()
			break
		}
		wait.Go(publish)
	}
	wait.Wait()
	return receipts
}

// publishToStream publishes the messages at indexes to one stream, in order.
func (b *Broker) publishToStream(ctx context.Context, stream string, messages []broker.Message, indexes []int, receipts []broker.Receipt, whole bool) {
	for len(indexes) > 0 {
		chunk := indexes[:min(len(indexes), broker.BatchMessagesMax)]
		indexes = indexes[len(chunk):]
		if !b.publishChunk(ctx, stream, messages, chunk, receipts, whole) {
			notStored(indexes, receipts)
			return
		}
	}
}

// publishChunk publishes what fits one atomic batch and reports whether all of it
// is stored. A message that cannot go out ends the batch: what is before it goes.
func (b *Broker) publishChunk(ctx context.Context, stream string, messages []broker.Message, indexes []int, receipts []broker.Receipt, whole bool) bool {
	letters := make([]letter, len(indexes))
	good := len(indexes)
	for n, i := range indexes {
		if letters[n] = b.encode(stream, &messages[i]); letters[n].err != nil {
			good = n
			break
		}
	}
	stored := true
	if good > 0 {
		for n, receipt := range b.line(stream).publish(ctx, letters[:good], whole) {
			receipts[indexes[n]] = receipt
			stored = stored && receipt.Err == nil
		}
	}
	if good == len(indexes) {
		return stored
	}
	if rest := indexes[good:]; stored {
		receipts[rest[0]] = letters[good].receipt(pubAck{}, letters[good].err)
		notStored(rest[1:], receipts)
	} else {
		notStored(rest, receipts)
	}
	return false
}

// notStored fails the messages that must not overtake one that is not stored.
func notStored(indexes []int, receipts []broker.Receipt) {
	for _, i := range indexes {
		receipts[i].Err = errEarlier
	}
}

type pubAck struct {
	Error     *apiError `json:"error"`
	Stream    string    `json:"stream"`
	Sequence  uint64    `json:"seq"`
	Duplicate bool      `json:"duplicate"`
	Batch     string    `json:"batch"`
}

// apiError is an error that the JetStream API answered with.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("jetstream: %s (%d)", e.Description, e.ErrCode) }

// request publishes msg and waits for its durable ack, until ctx ends or the connection
// is lost.
func (b *Broker) request(ctx context.Context, msg *nats.Msg) (pubAck, error) {
	ctx, cancel := b.loss.bound(ctx)
	defer cancel()
	reply, err := b.conn.RequestMsgWithContext(ctx, msg)
	if err != nil && errors.Is(context.Cause(ctx), errLost) {
		err = errLost
	}
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return pubAck{}, fmt.Errorf("%w: %w", broker.ErrRejected, err)
	case errors.Is(err, nats.ErrNoResponders):
		return pubAck{}, fmt.Errorf("%w: no stream takes %s, or JetStream is off or has no leader", broker.ErrUnavailable, msg.Subject)
	case err != nil:
		return pubAck{}, fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
	}
	var ack pubAck
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return pubAck{}, fmt.Errorf("%w: unreadable ack: %w", broker.ErrUnavailable, err)
	}
	switch {
	case ack.Error == nil && ack.Sequence == 0:
		return pubAck{}, fmt.Errorf("%w: ack without a sequence", broker.ErrUnavailable)
	case ack.Error == nil:
		return ack, nil
	case ack.Error.ErrCode == errCodeMessageTooLarge:
		return pubAck{}, fmt.Errorf("%w: %w", broker.ErrRejected, ack.Error)
	default:
		return pubAck{}, fmt.Errorf("%w: %w", broker.ErrUnavailable, ack.Error)
	}
}

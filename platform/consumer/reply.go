package consumer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
)

// ErrNotDeferred means that a command waits for no reply any more: it has one,
// or its compensation came meanwhile. What the service did for it must then be
// undone or left undone by the service.
var ErrNotDeferred = errors.New("command waits for no reply")

// DeferredKey returns the key that [Reply] wants for the command in hand. Store
// it beside the work that will produce the reply.
func DeferredKey(ctx context.Context) uuid.UUID {
	s, ok := ctx.Value(scopeKey{}).(*scope)
	if !ok {
		panic("consumer.DeferredKey: not inside a handler")
	}
	return inboxKey(s.consumer, s.event.Source, s.event.ID)
}

// Reply sends the reply of a command whose handler returned [ErrDeferred], in
// tx: a positive one, or the rejection that err is. It returns [ErrNotDeferred]
// when nobody waits for it; the caller then rolls back what it did. Wake the
// outbox relay after the commit.
func Reply[Q, R any](ctx context.Context, tx pgx.Tx, consumer string, _ events.Command[Q, R], key uuid.UUID, reply R, rejected error) error {
	var attributes []byte
	err := tx.QueryRow(ctx, "select command from inbox where key = $1 and status = 'deferred' for update", key).Scan(&attributes)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotDeferred
	case err != nil:
		return fmt.Errorf("load deferred command: %w", err)
	}
	command, err := events.ParseAttributes(attributes, nil)
	if err != nil {
		return fmt.Errorf("deferred command: %w", err)
	}
	status := statusReplied
	var rejection *events.Rejection
	if rejected != nil {
		if !errors.As(rejected, &rejection) {
			return fmt.Errorf("reply to %s: only a rejection can be sent, got: %w", command.Type, rejected)
		}
		status = statusRejected
	}
	data, err := encodeReply(reply)
	if err != nil {
		return err
	}
	event, err := events.NewReply(&command, "/"+consumer, data, rejection, time.Now().UTC())
	if err != nil {
		return err
	}
	event.TraceParent, event.TraceState = command.TraceParent, command.TraceState
	if _, err := tx.Exec(ctx, "update inbox set status = $2, reply = $3 where key = $1", key, status, encodeEvent(&event)); err != nil {
		return fmt.Errorf("store deferred reply: %w", err)
	}
	if command.ReplyTo == "" {
		return nil
	}
	return outbox.Write(ctx, tx, broker.Message{Topic: events.Topic(command.ReplyTo), PublishID: event.ID, Event: event})
}

// encodeEvent packs attributes and data of an event into one value.
func encodeEvent(e *events.Event) []byte {
	attributes := events.AppendAttributes(nil, e)
	packed := binary.AppendUvarint(make([]byte, 0, len(attributes)+len(e.Data)+4), uint64(len(attributes)))
	packed = append(packed, attributes...)
	return append(packed, e.Data...)
}

func decodeEvent(packed []byte) (events.Event, error) {
	n, width := binary.Uvarint(packed)
	if width <= 0 || n > uint64(len(packed)-width) {
		return events.Event{}, fmt.Errorf("%w: stored event is cut short", events.ErrInvalid)
	}
	return events.ParseAttributes(packed[width:width+int(n)], packed[width+int(n):])
}

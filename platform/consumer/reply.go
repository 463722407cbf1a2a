package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

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
	if rejected != nil && !errors.As(rejected, &rejection) {
		return fmt.Errorf("reply to %s: only a rejection can be sent, got: %w", command.Type, rejected)
	}
	answer, err := encodeReply(reply)
	if err == nil && rejection != nil {
		status = statusRejected
		answer, err = json.Marshal(rejection)
	}
	if err != nil {
		return fmt.Errorf("encode reply to %s: %w", command.Type, err)
	}
	event, err := newReply(ctx, &command, "/"+consumer, answer, rejection)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "update inbox set status = $2, command = null, answer = $3 where key = $1", key, status, answer)
	if err != nil {
		return fmt.Errorf("store deferred reply: %w", err)
	}
	if command.ReplyTo == "" {
		return nil
	}
	return outbox.Write(ctx, tx, broker.Message{Topic: events.Topic(command.ReplyTo), PublishID: event.ID, Event: event})
}

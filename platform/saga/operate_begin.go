package saga

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/telemetry"
)

// ErrKeyConflict means that a saga was begun under the same business key with
// another request.
var ErrKeyConflict = errors.New("the key belongs to a saga that was begun with another request")

// KeyID returns the id of the saga of a definition that has that business key.
func KeyID(definition, key string) string { return events.DeriveID("key", definition, key) }

// Begin begins a saga in tx, a transaction on the engine's database: the saga, and
// the first commands that it sends, are there when tx commits, and never were when
// it is rolled back. Wake the relay after the commit.
//
// key is the business key of the saga, such as the number of an order, and unique
// within its definition. Beginning it again with the same request changes nothing;
// with another one the error is [ErrKeyConflict]. The id is that of the saga that
// has the key, in both cases. A transaction that begins the same saga at the same
// time is waited for. After an error tx can still be used, unless the database was
// lost.
//
// Whoever is not on the engine's database sends [BeginMessage] instead.
func Begin[Q, R any](ctx context.Context, e *Engine, tx pgx.Tx, command events.Command[Q, R], key string, request Q) (id string, err error) {
	program := e.starts[command.Type()]
	if program == nil {
		return "", fmt.Errorf("start saga: no definition of this engine starts with %s", command.Type())
	}
	message, err := BeginMessage(program.Name, command, key, request, time.Now())
	if err != nil {
		return "", err
	}
	telemetry.Inject(ctx, &message.Event)
	id = message.Event.ID
	begun, err := e.begin(ctx, tx, program, &message.Event)
	if begun == nil || err != nil {
		return id, err
	}
	if begun.Fingerprint != message.Event.Extension("fingerprint") {
		return id, fmt.Errorf("start saga %s of %s %q: %w", id, program.Name, key, ErrKeyConflict)
	}
	return id, nil
}

// BeginMessage returns the command that begins a saga, for [outbox.Write] in a
// transaction of a service on a database of its own. key is as of [Begin]; a second
// command for it is ignored by the engine, whatever its request.
func BeginMessage[Q, R any](definition string, command events.Command[Q, R], key string, request Q, now time.Time) (broker.Message, error) {
	if key == "" {
		return broker.Message{}, fmt.Errorf("start saga %s: the key is empty", definition)
	}
	id := KeyID(definition, key)
	event, err := command.New(id, "/start/"+definition, request, now)
	if err != nil {
		return broker.Message{}, fmt.Errorf("start saga %s: %w", definition, err)
	}
	if err := sized(event.Data, nil); err != nil {
		return broker.Message{}, fmt.Errorf("start saga %s: %w", definition, err)
	}
	event.CorrelationID, event.PartitionKey = id, id
	sum := sha256.Sum256(event.Data)
	event.SetExtension("fingerprint", hex.EncodeToString(sum[:]))
	// The publish id tells requests apart: the broker would drop the second one of a
	// key otherwise, and the engine could not say that it differs.
	return broker.Message{Topic: command.Topic(), PublishID: id + "." + hex.EncodeToString(sum[:8]), Event: event}, nil
}

// begin begins a saga in tx, or returns the one of that id that exists.
func (e *Engine) begin(ctx context.Context, tx pgx.Tx, program *Program, event *events.Event) (exists *Instance, err error) {
	id, err := uuid.Parse(event.ID)
	if err != nil {
		return nil, fmt.Errorf("start saga %s: %w", event.ID, err)
	}
	for range attemptsMax {
		t := e.newTransition()
		t.patient = true // only the caller knows when it commits
		if t.found, t.now, err = load(ctx, tx, []uuid.UUID{id}); err != nil {
			return nil, err
		}
		if saga := t.found[id]; saga != nil {
			return &saga.Instance, saga.unreadable
		}
		saga := &stored{Instance: Instance{Name: program.Name, Version: program.Version}}
		input := &StartInput{ID: event.ID, Request: event.Data, Fingerprint: event.Extension("fingerprint")}
		if _, err := t.decide(ctx, saga, Input{Start: input}, event); err != nil {
			return nil, fmt.Errorf("start saga %s: %w", event.ID, err)
		}
		var batch pgx.Batch
		queueChanges(&batch, []change{*t.changed[id]})
		t.queueClaims(&batch)
		if err := outbox.Queue(&batch, t.out...); err != nil {
			return nil, err
		}
		// Within a savepoint, so that a saga which has just been begun by another
		// transaction does not cost the caller's one.
		err = pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error { return inner.SendBatch(ctx, &batch).Close() })
		if !isConflict(err) {
			if err != nil {
				return nil, fmt.Errorf("start saga %s: %w", event.ID, err)
			}
			t.report(ctx) // a caller that rolls back leaves it counted
			return nil, nil
		}
	}
	return nil, fmt.Errorf("start saga %s: %w", event.ID, err)
}

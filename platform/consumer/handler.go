package consumer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/telemetry"
)

// Handler obeys one command type or reacts to one fact type. Make it with
// [Handle], [HandleAll] or [On].
type Handler struct {
	contract events.Descriptor
	// run returns the reply's data. It is called inside a savepoint.
	run func(ctx context.Context, tx pgx.Tx, e *events.Event) ([]byte, error)
	// all handles several at once, of a handler made with [HandleAll]; nil: it cannot.
	all func(ctx context.Context, tx pgx.Tx, calls []call) error
}

// Contract returns what the handler obeys or reacts to.
func (h Handler) Contract() events.Descriptor { return h.contract }

// Handle returns the handler of a command. fn gets the request and returns the
// reply; what it writes through tx commits together with the reply, or not at
// all. ctx ends with the batch's timeout, and carries the command: see [Command]
// and [Emit]. fn is called once for a command however often it is delivered, as
// long as the inbox remembers it; work outside of tx must be safe to repeat.
//
// A command that undoes another (its undoes attribute is set) is answered
// without calling fn when the other never ran or was rejected, and the other is
// then refused should it still come.
func Handle[Q, R any](command events.Command[Q, R], fn func(ctx context.Context, tx pgx.Tx, request Q) (R, error)) Handler {
	return Handler{
		contract: command.Describe(),
		run: func(ctx context.Context, tx pgx.Tx, e *events.Event) ([]byte, error) {
			request, err := command.Request(e)
			if err != nil {
				return nil, Terminal(err)
			}
			reply, err := fn(ctx, tx, request)
			if err != nil {
				return nil, err
			}
			return encodeReply(reply)
		},
	}
}

// On returns the handler of a fact. It differs from [Handle] in having no reply.
func On[T any](fact events.Fact[T], fn func(ctx context.Context, tx pgx.Tx, payload T) error) Handler {
	return Handler{
		contract: fact.Describe(),
		run: func(ctx context.Context, tx pgx.Tx, e *events.Event) ([]byte, error) {
			payload, err := fact.Payload(e)
			if err != nil {
				return nil, Terminal(err)
			}
			return nil, fn(ctx, tx, payload)
		},
	}
}

func encodeReply[R any](reply R) ([]byte, error) {
	if reflect.TypeFor[R]() == reflect.TypeFor[events.None]() {
		return nil, nil
	}
	data, err := json.Marshal(reply)
	if err != nil {
		return nil, Terminal(fmt.Errorf("encode reply: %w", err))
	}
	if len(data) > broker.MessageBytesMax {
		return nil, Terminal(fmt.Errorf("reply has %d bytes, at most %d are allowed", len(data), broker.MessageBytesMax))
	}
	return data, nil
}

// zeroReply is the reply to a compensation that had nothing to undo.
func (h Handler) zeroReply() []byte {
	if h.contract.Reply == nil || h.contract.Reply == reflect.TypeFor[events.None]() {
		return nil
	}
	data, err := json.Marshal(reflect.Zero(h.contract.Reply).Interface())
	if err != nil {
		return nil // the same type is encoded on every other reply, which would fail loudly
	}
	return data
}

// ErrDeferred is returned by a handler of a command whose reply comes later, by
// [Reply]. What the handler wrote commits; redelivery changes nothing meanwhile.
var ErrDeferred = errors.New("reply deferred")

// errNotYours answers a handler that tries to end the transaction.
var errNotYours = errors.New("the handler's transaction is committed or rolled back by the consumer")

// Terminal marks an error that no retry can cure: the event becomes a dead
// letter at once. A nil error stays nil.
func Terminal(err error) error {
	if err == nil {
		return nil
	}
	return &terminalError{err}
}

type terminalError struct{ err error }

func (e *terminalError) Error() string { return e.err.Error() }
func (e *terminalError) Unwrap() error { return e.err }

// scope is what a handler's context carries.
type scope struct {
	consumer string
	event    *events.Event
	emitted  []broker.Message
}

type scopeKey struct{}

// Command returns the event being handled, or nil outside of a handler. The
// caller must not change it.
func Command(ctx context.Context) *events.Event {
	if s, ok := ctx.Value(scopeKey{}).(*scope); ok {
		return s.event
	}
	return nil
}

// Emit adds a fact about subject to what the handler's transaction publishes. The
// event is caused by the command in hand and inherits its correlation and its tenant. Facts about
// one subject keep their order; without a subject they keep the command's. It is
// published once the transaction has committed, and forgotten when the handler
// ends in a rejection or an error. An error of Emit is terminal: no broker would
// take the event. Emit panics outside of a handler.
func Emit[T any](ctx context.Context, fact events.Fact[T], subject string, payload T) error {
	s, ok := ctx.Value(scopeKey{}).(*scope)
	if !ok {
		panic("consumer.Emit: not inside a handler")
	}
	// Derived, so that a handler that runs again emits the same event.
	id := events.DeriveID(s.consumer, s.event.Source, s.event.ID, "emit", strconv.Itoa(len(s.emitted)))
	e, err := fact.New(id, "/"+s.consumer, payload, time.Now())
	if err != nil {
		return Terminal(err)
	}
	e.Subject, e.CausationID = subject, s.event.ID
	e.CorrelationID, e.PartitionKey = s.event.CorrelationID, cmp.Or(subject, s.event.Key())
	e.TraceParent, e.TraceState = s.event.TraceParent, s.event.TraceState
	if tenant := s.event.Extension(events.TenantExtension); tenant != "" {
		e.SetExtension(events.TenantExtension, tenant)
	}
	telemetry.Inject(ctx, &e)
	m := broker.Message{Topic: fact.Topic(), PublishID: id, Event: e}
	if err := outbox.Check(&m); err != nil {
		return Terminal(fmt.Errorf("emit %s: %w", fact.Type(), err))
	}
	s.emitted = append(s.emitted, m)
	return nil
}

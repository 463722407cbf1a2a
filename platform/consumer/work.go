package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/telemetry"
)

// work is one batch in one transaction.
type work struct {
	*Commands
	tx      *transaction
	batch   *Batch
	inbox   inbox
	out     []broker.Message // through the outbox
	replies []broker.Message // from memory
	// guarded says that the transaction holds the savepoint of an earlier delivery.
	guarded bool
	// anew says that the batch is a command that the inbox knows, handled once more on
	// an operator's word: the inbox keeps its entry, and nobody is answered twice.
	anew bool
	// groups wait to be handled together; held are their partition keys with the
	// command's type, and heldKeys those of their inbox entries. Without held,
	// every delivery is handled by itself.
	groups   []*group
	held     map[string]string
	heldKeys map[[16]byte]bool
}

// begin starts the transaction and loads what the inbox knows of the batch.
func (w *work) begin(ctx context.Context) error {
	keys := make([][16]byte, 0, len(w.batch.Deliveries))
	for i := range w.batch.Deliveries {
		e := &w.batch.Deliveries[i].Event
		keys = append(keys, w.key(e.Source, e.ID))
		if e.Undoes != "" {
			keys = append(keys, w.key(e.Source, e.Undoes))
		}
	}
	w.inbox = make(inbox, len(keys))
	if err := w.tx.begin(ctx, func(batch *pgx.Batch) { w.inbox.load(batch, keys) }); err != nil {
		return fmt.Errorf("load inbox: %w", err)
	}
	return nil
}

func (c *Commands) key(source, id string) [16]byte { return inboxKey(c.config.Name, source, id) }

// deliver handles delivery i. Its error fails the whole transaction; a failure
// of this delivery alone is told to the batch.
func (w *work) deliver(ctx context.Context, i int) error {
	d := &w.batch.Deliveries[i]
	number, last := w.batch.Attempt(i)
	handler, known := w.handlers[d.Event.Type]
	switch {
	case d.Malformed != nil:
		w.bury(i, number, d.Malformed)
		return nil //nolint:nilerr // it is set aside, and the batch goes on
	case !known:
		w.bury(i, number, fmt.Errorf("%w for %s", errNoHandler, d.Event.Type))
		return nil
	case number > w.config.AttemptsMax:
		w.bury(i, number-1, last)
		return nil
	}
	if err := events.Topic(d.Event.ReplyTo).Validate(); err != nil && d.Event.ReplyTo != "" {
		w.bury(i, number, Terminal(fmt.Errorf("reply to: %w", err)))
		return nil
	}
	e := &d.Event
	key := w.key(e.Source, e.ID)
	if err := w.yield(ctx, e, key); err != nil {
		return err
	}
	if entry, seen := w.inbox[key]; seen && w.batch.anew(entry) {
		w.anew = true
	} else if seen {
		if err := w.again(ctx, e, entry); err != nil {
			return err
		}
		w.batch.Done(i)
		return nil
	}
	if err := w.stale(d); err != nil {
		w.bury(i, number, err)
		return nil
	}
	if e.Undoes != "" {
		done, err := w.mustUndo(e)
		if err != nil {
			w.bury(i, number, err)
			return nil
		}
		if !done {
			return w.conclude(ctx, i, key, statusReplied, handler.zeroReply(), nil, nil)
		}
	}
	if w.config.Check != nil {
		if err := Invalid(w.config.Check(e)); err != nil {
			w.bury(i, number, err)
			return nil
		}
	}
	if handler.all != nil && w.held != nil {
		w.hold(i, key, handler)
		return nil
	}
	return w.run(ctx, i, key, handler)
}

// again answers a command that was handled before as it was answered then. The
// publish id is fresh: the broker's window must not swallow a reply that is asked
// for because the first one was lost.
func (w *work) again(ctx context.Context, e *events.Event, seen *entry) error {
	var rejection *events.Rejection
	switch {
	case e.ReplyTo == "" || seen.status == statusDeferred:
		return nil
	case seen.status == statusRevoked:
		rejection = &events.Rejection{Code: "revoked", Message: "the command was undone before it ran"}
	case seen.status == statusRejected:
		rejection = new(events.Rejection)
		if err := json.Unmarshal(seen.answer, rejection); err != nil {
			return fmt.Errorf("inbox entry of command %s: %w", e.ID, err)
		}
	}
	reply, err := newReply(ctx, e, w.source(), seen.answer, rejection)
	if err != nil {
		return err
	}
	return w.reply(broker.Message{Topic: events.Topic(e.ReplyTo), PublishID: events.NewID(), Event: reply})
}

// reply queues a reply.
func (w *work) reply(m broker.Message) error {
	if w.config.Replies == nil {
		w.out = append(w.out, m)
		return nil
	}
	if err := outbox.Check(&m); err != nil {
		return fmt.Errorf("reply to %s: %w", m.Event.CausationID, err)
	}
	w.replies = append(w.replies, m)
	return nil
}

// newReply returns the reply to a command, in the command's trace: caused by the
// span in ctx, if there is one.
func newReply(ctx context.Context, command *events.Event, source string, data []byte, rejection *events.Rejection) (events.Event, error) {
	reply, err := events.NewReply(command, source, data, rejection, time.Now().UTC())
	reply.TraceParent, reply.TraceState = command.TraceParent, command.TraceState
	telemetry.Inject(ctx, &reply)
	return reply, err
}

// mustUndo reports whether the command that e undoes has had an effect. If it
// has not, a tombstone makes sure it never will. It fails when nobody can tell,
// unless an operator wants it undone.
func (w *work) mustUndo(e *events.Event) (bool, error) {
	key := w.key(e.Source, e.Undoes)
	done, seen := w.inbox[key]
	switch {
	case !seen:
		if err := w.staleUndo(e); err != nil {
			if w.batch.decided() {
				return true, nil
			}
			return false, err
		}
		w.inbox.set(key, statusRevoked, nil, nil)
		return false, nil
	case done.status == statusReplied, done.status == statusDeferred:
		return true, nil
	default: // rejected or revoked: no effect to undo
		return false, nil
	}
}

// run calls the handler inside a savepoint, so that its end decides over its
// writes alone.
func (w *work) run(ctx context.Context, i int, key [16]byte, handler Handler) error {
	e := &w.batch.Deliveries[i].Event
	ctx, span := telemetry.StartConsume(ctx, w.config.Tracer, w.config.Name, e)
	defer span.End()
	s := &scope{consumer: w.config.Name, event: e}
	guard := &deliveryTx{Tx: w.tx, ctx: ctx, nested: w.guarded, alone: len(w.batch.Deliveries) == 1}
	number, _ := w.batch.Attempt(i)
	if number > 1 && !guard.alone { // what cost the first attempt its savepoint must not cost this one
		guard.ahead(ctx)
	}
	reply, err := w.call(context.WithValue(ctx, scopeKey{}, s), handler, guard, e)

	w.guarded = w.guarded || guard.opened
	if (err == nil || errors.Is(err, ErrDeferred)) && w.tx.status() == 'E' {
		err = errors.New("the handler passed over the error of a statement")
	}
	if err != nil && !errors.Is(err, ErrDeferred) {
		if backErr := w.takeBack(ctx, guard, e, err); backErr != nil {
			return backErr
		}
	}
	return w.end(ctx, span, i, key, handler, reply, err, s.emitted)
}

// end takes in how the handler of delivery i has ended. What it wrote is in the
// transaction when err is nil or ErrDeferred, and not otherwise.
func (w *work) end(ctx context.Context, span trace.Span, i int, key [16]byte, handler Handler,
	reply []byte, err error, emitted []broker.Message,
) error {
	e := &w.batch.Deliveries[i].Event
	number, _ := w.batch.Attempt(i)
	var (
		rejection *events.Rejection
		terminal  *terminalError
	)
	switch {
	case err == nil:
		return w.conclude(ctx, i, key, statusReplied, reply, nil, emitted)
	case errors.Is(err, ErrDeferred) && w.anew: // its later Reply gets ErrNotDeferred
		return w.conclude(ctx, i, key, statusReplied, nil, nil, emitted)
	case errors.Is(err, ErrDeferred):
		w.out = append(w.out, emitted...)
		w.inbox.set(key, statusDeferred, events.AppendAttributes(nil, e), nil)
		if e.Undoes != "" {
			w.revoke(e)
		}
		w.batch.Done(i)
		return nil
	case errors.As(err, &rejection):
		span.SetAttributes(rejectionAttribute(rejection))
		if !slices.Contains(handler.contract.Rejections, rejection.Code) {
			w.config.Logger.ErrorContext(ctx, "rejection code is not in the contract", "consumer", w.config.Name,
				"event_type", e.Type, "code", rejection.Code)
		}
		return w.conclude(ctx, i, key, statusRejected, nil, rejection, nil)
	case errors.As(err, &terminal):
		span.SetStatus(codes.Error, "terminal")
		w.bury(i, number, err)
		return nil
	default:
		span.SetStatus(codes.Error, "failed")
		w.batch.Fail(i, err)
		return nil
	}
}

// takeBack undoes what a handler that ended in cause has written.
func (w *work) takeBack(ctx context.Context, guard *deliveryTx, e *events.Event, cause error) error {
	switch {
	case guard.alone && guard.used: // nobody else's writes are in the transaction
		if err := w.tx.rollback(ctx); err != nil {
			return err
		}
		return w.begin(ctx)
	case guard.opened:
		if _, err := w.tx.Exec(ctx, "rollback to savepoint delivery", pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("rollback to savepoint: %w", err)
		}
	case guard.failed:
		// There is no savepoint but that of the delivery before. The cause is not
		// wrapped: it is the handler's, and must not pass for one of the platform's.
		return fmt.Errorf("handle %s: no savepoint to return to: %s", e.Type, cause.Error())
	}
	return nil
}

func (w *work) call(ctx context.Context, handler Handler, tx pgx.Tx, e *events.Event) (reply []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("handler of %s panicked: %v", e.Type, p)
		}
	}()
	return handler.run(ctx, tx, e)
}

// conclude records how the command ended and queues its reply.
func (w *work) conclude(ctx context.Context, i int, key [16]byte, status string, data []byte,
	rejection *events.Rejection, emitted []broker.Message,
) error {
	e := &w.batch.Deliveries[i].Event
	if !w.anew {
		if err := w.answer(ctx, e, key, status, data, rejection); err != nil {
			return err
		}
	}
	w.out = append(w.out, emitted...)
	if e.Undoes != "" {
		w.revoke(e)
	}
	w.batch.Done(i)
	return nil
}

// answer puts the end of a command into the inbox and replies to whoever asked.
func (w *work) answer(ctx context.Context, e *events.Event, key [16]byte, status string, data []byte, rejection *events.Rejection) error {
	stored := data
	if rejection != nil {
		rejection = &events.Rejection{Code: rejection.Code, Message: clip(rejection.Message)}
		var err error
		if stored, err = json.Marshal(rejection); err != nil {
			return fmt.Errorf("encode rejection of %s: %w", e.Type, err)
		}
	}
	if e.ReplyTo != "" {
		reply, err := newReply(ctx, e, w.source(), data, rejection)
		if err != nil {
			return err
		}
		if err := w.reply(broker.Message{Topic: events.Topic(e.ReplyTo), PublishID: reply.ID, Event: reply}); err != nil {
			return err
		}
	}
	w.inbox.set(key, status, nil, stored)
	return nil
}

// bury sets delivery i aside, with its story, and lets its source go on.
func (w *work) bury(i, attempts int, reason error) {
	d := &w.batch.Deliveries[i]
	w.batch.Bury(i, attempts, reason)
	w.config.Logger.Error("event became a dead letter", "consumer", w.config.Name, "topic", d.Topic,
		"partition", d.Partition, "offset", d.Offset, "event_id", d.Event.ID, "event_type", d.Event.Type,
		"saga_id", d.Event.CorrelationID, "attempts", attempts, "error", reason)
}

// clip bounds a text that is meant for people.
func clip(text string) string {
	const bytesMax = 1000
	if len(text) > bytesMax {
		return strings.ToValidUTF8(text[:bytesMax], "") + "…"
	}
	return text
}

// revoke closes a deferred command that e has undone: nobody waits for its reply
// any more. It comes after the undo has succeeded, since one that fails is tried
// again and must find the command as it was.
func (w *work) revoke(e *events.Event) {
	key := w.key(e.Source, e.Undoes)
	if done, seen := w.inbox[key]; seen && done.status == statusDeferred {
		w.inbox.set(key, statusRevoked, done.command, nil)
	}
}

func (w *work) source() string { return "/" + w.config.Name }

// commit sends everything the batch left to write, and the commit, in one round
// trip.
func (w *work) commit(ctx context.Context) error {
	var batch pgx.Batch
	if w.inbox.queueChanged(&batch) { // must be checked here before the commit is sent
		if err := w.tx.SendBatch(ctx, &batch).Close(); err != nil {
			return fmt.Errorf("store inbox: %w", err)
		}
		batch = pgx.Batch{}
	}
	w.inbox.queueFresh(&batch)
	if err := outbox.Queue(&batch, w.out...); err != nil {
		return err
	}
	w.batch.QueuePositions(&batch)
	return w.tx.commit(ctx, &batch)
}

package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/telemetry"
)

// CommandsConfig of [Commands]. Name is required and must be the feed's; the
// zero value of every other field is its default.
type CommandsConfig struct {
	// Name of the consumer. Replies carry /Name as their source.
	Name string
	// AttemptsMax is how often a delivery is tried before it becomes a dead
	// letter: 10 by default, about a minute and a half with the default backoff.
	AttemptsMax int
	// Wake is called after each commit, to wake the outbox relay; nil: nobody.
	Wake   func()
	Tracer trace.Tracer // nil: the global provider's
	Logger *slog.Logger
}

// Commands is the [Processor] of a participant: it obeys commands with typed
// handlers and replies to them.
type Commands struct {
	pool     *pgxpool.Pool
	config   CommandsConfig
	handlers map[string]Handler
	topics   []events.Topic
}

// NewCommands returns the processor for those handlers. It fails when two handle
// the same type.
func NewCommands(pool *pgxpool.Pool, config CommandsConfig, handlers ...Handler) (*Commands, error) {
	if config.Name == "" {
		return nil, errors.New("commands: a name is required")
	}
	if config.AttemptsMax == 0 {
		config.AttemptsMax = 10
	}
	if config.Wake == nil {
		config.Wake = func() {}
	}
	if config.Tracer == nil {
		config.Tracer = otel.Tracer("github.com/countermand/countermand/platform/consumer")
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	c := &Commands{pool: pool, config: config, handlers: make(map[string]Handler, len(handlers))}
	for _, h := range handlers {
		if _, twice := c.handlers[h.contract.Type]; twice {
			return nil, fmt.Errorf("commands of %s: two handlers for %s", config.Name, h.contract.Type)
		}
		c.handlers[h.contract.Type] = h
		if !slices.Contains(c.topics, h.contract.Topic) {
			c.topics = append(c.topics, h.contract.Topic)
		}
	}
	return c, nil
}

// Topics returns what the feed must read for these handlers.
func (c *Commands) Topics() []events.Topic { return slices.Clone(c.topics) }

// Process implements [Processor].
func (c *Commands) Process(ctx context.Context, batch *Batch) error {
	wake := false
	err := postgres.InTx(ctx, c.pool, func(tx pgx.Tx) error {
		work, err := c.begin(ctx, tx, batch)
		if err != nil {
			return err
		}
		for i := range batch.Deliveries {
			if batch.Skip(i) {
				continue
			}
			if err := work.deliver(ctx, i); err != nil {
				return err
			}
		}
		wake = len(work.out) > 0
		return work.flush(ctx)
	})
	if err == nil && wake {
		c.config.Wake()
	}
	return err
}

// work is one batch in one transaction.
type work struct {
	*Commands
	tx    pgx.Tx
	batch *Batch
	inbox inbox
	out   []broker.Message
	dead  []deadLetter
	// guarded says that the transaction holds the savepoint of an earlier delivery.
	guarded bool
}

func (c *Commands) begin(ctx context.Context, tx pgx.Tx, batch *Batch) (*work, error) {
	keys := make([]uuid.UUID, 0, len(batch.Deliveries))
	for i := range batch.Deliveries {
		e := &batch.Deliveries[i].Event
		keys = append(keys, c.key(e.Source, e.ID))
		if e.Undoes != "" {
			keys = append(keys, c.key(e.Source, e.Undoes))
		}
	}
	found, err := loadInbox(ctx, tx, keys)
	if err != nil {
		return nil, err
	}
	return &work{Commands: c, tx: tx, batch: batch, inbox: found}, nil
}

func (c *Commands) key(source, id string) uuid.UUID { return inboxKey(c.config.Name, source, id) }

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
		w.bury(i, number, fmt.Errorf("no handler for %s", d.Event.Type))
		return nil
	case number > w.config.AttemptsMax:
		w.bury(i, number-1, last)
		return nil
	}
	if err := events.Topic(d.Event.ReplyTo).Validate(); err != nil && d.Event.ReplyTo != "" {
		w.bury(i, number, fmt.Errorf("reply to: %w", err))
		return nil
	}
	e := &d.Event
	key := w.key(e.Source, e.ID)
	if entry, seen := w.inbox[key]; seen {
		if err := w.again(ctx, e, entry); err != nil {
			return err
		}
		w.batch.Done(i)
		return nil
	}
	if e.Undoes != "" && !w.mustUndo(e) {
		return w.conclude(ctx, i, key, statusReplied, handler.zeroReply(), nil, nil)
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
	w.out = append(w.out, broker.Message{Topic: events.Topic(e.ReplyTo), PublishID: events.NewID(), Event: reply})
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
// has not, a tombstone makes sure it never will.
func (w *work) mustUndo(e *events.Event) bool {
	key := w.key(e.Source, e.Undoes)
	done, seen := w.inbox[key]
	switch {
	case !seen:
		w.inbox.set(key, statusRevoked, nil, nil)
		return false
	case done.status == statusReplied, done.status == statusDeferred:
		return true
	default: // rejected or revoked: no effect to undo
		return false
	}
}

// run calls the handler inside a savepoint, so that its end decides over its
// writes alone.
func (w *work) run(ctx context.Context, i int, key uuid.UUID, handler Handler) error {
	e := &w.batch.Deliveries[i].Event
	ctx, span := telemetry.StartConsume(ctx, w.config.Tracer, w.config.Name, e)
	defer span.End()
	s := &scope{consumer: w.config.Name, event: e}
	guard := &deliveryTx{Tx: w.tx, ctx: ctx, nested: w.guarded}
	number, _ := w.batch.Attempt(i)
	if number > 1 { // what cost the first attempt its savepoint must not cost this one
		guard.ahead(ctx)
	}
	reply, err := w.call(context.WithValue(ctx, scopeKey{}, s), handler, guard, e)

	var rejection *events.Rejection
	w.guarded = w.guarded || guard.opened
	if (err == nil || errors.Is(err, ErrDeferred)) && w.tx.Conn().PgConn().TxStatus() == 'E' {
		err = errors.New("the handler passed over the error of a statement")
	}
	switch {
	case err == nil || errors.Is(err, ErrDeferred):
	case guard.opened:
		if _, err := w.tx.Exec(ctx, "rollback to savepoint delivery", pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("rollback to savepoint: %w", err)
		}
	case guard.failed:
		// There is no savepoint but that of the delivery before. The cause is not
		// wrapped: it is the handler's, and must not pass for one of the platform's.
		return fmt.Errorf("handle %s: no savepoint to return to: %s", e.Type, err.Error())
	}
	var terminal *terminalError
	switch {
	case err == nil:
		return w.conclude(ctx, i, key, statusReplied, reply, nil, s.emitted)
	case errors.Is(err, ErrDeferred):
		w.out = append(w.out, s.emitted...)
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

func (w *work) call(ctx context.Context, handler Handler, tx pgx.Tx, e *events.Event) (reply []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("handler of %s panicked: %v", e.Type, p)
		}
	}()
	return handler.run(ctx, tx, e)
}

// conclude records how the command ended and queues its reply.
func (w *work) conclude(ctx context.Context, i int, key uuid.UUID, status string, data []byte,
	rejection *events.Rejection, emitted []broker.Message,
) error {
	e := &w.batch.Deliveries[i].Event
	answer := data
	if rejection != nil {
		rejection = &events.Rejection{Code: rejection.Code, Message: clip(rejection.Message)}
		var err error
		if answer, err = json.Marshal(rejection); err != nil {
			return fmt.Errorf("encode rejection of %s: %w", e.Type, err)
		}
	}
	if e.ReplyTo != "" {
		reply, err := newReply(ctx, e, w.source(), data, rejection)
		if err != nil {
			return err
		}
		w.out = append(w.out, broker.Message{Topic: events.Topic(e.ReplyTo), PublishID: reply.ID, Event: reply})
	}
	w.out = append(w.out, emitted...)
	w.inbox.set(key, status, nil, answer)
	if e.Undoes != "" {
		w.revoke(e)
	}
	w.batch.Done(i)
	return nil
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

// flush sends everything the batch left to write in one round trip.
func (w *work) flush(ctx context.Context) error {
	var batch pgx.Batch
	w.inbox.queue(&batch)
	queueDeadLetters(&batch, w.config.Name, w.dead)
	if err := outbox.Queue(&batch, w.out...); err != nil {
		return err
	}
	w.batch.QueuePositions(&batch)
	if batch.Len() == 0 {
		return nil
	}
	if err := w.tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("store batch: %w", err)
	}
	return nil
}

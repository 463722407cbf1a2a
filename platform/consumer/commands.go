package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// CommandsConfig of [Commands]. Name is required and must be the feed's; the
// zero value of every other field is its default.
type CommandsConfig struct {
	// Name of the consumer. Replies carry /Name as their source.
	Name string
	// AttemptsMax is how often a delivery is tried before it becomes a dead
	// letter: 10 by default, about a minute and a half with the default backoff.
	AttemptsMax int
	// Wake is called after each commit that wrote to the outbox, to wake its relay;
	// nil: nobody.
	Wake func()
	// Replies sends replies when their transaction has committed, such as a
	// [broker.Dispatcher] does, from memory: a command whose reply is lost comes
	// again, and is answered again by the inbox. Nil: replies go through the outbox,
	// which costs a row and a hop each. Facts always go through the outbox.
	Replies Sender
	// Check is asked about every delivery that a handler would get, such as
	// payload.Validator.Check about its payload; what it finds wrong becomes a dead
	// letter at once, with its error as the reason. Nil: handlers judge by themselves.
	Check func(e *events.Event) error
	// Window is for how long the inbox remembers at least what was handled; run
	// [Commands.RunRetention] to have it forget. An event that it does not know
	// becomes a dead letter when it is older, for it may have been handled. It must
	// be longer than the broker keeps messages, which a feed checks before it reads,
	// and the same in all processes. 0: nothing is forgotten.
	Window time.Duration
	Tracer trace.Tracer // nil: the global provider's
	Logger *slog.Logger
}

// Sender takes messages that may be lost when the process dies. It keeps their
// order within a partition key.
type Sender interface {
	Send(messages ...broker.Message)
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

// Memory implements [Rememberer].
func (c *Commands) Memory() Memory { return MemoryInbox }

// Process implements [Processor].
func (c *Commands) Process(ctx context.Context, batch *Batch) error {
	err := c.process(ctx, batch, len(batch.Deliveries) > 1)
	if errors.Is(err, errTogether) {
		batch.reset()
		err = c.process(ctx, batch, false)
	}
	return err
}

func (c *Commands) process(ctx context.Context, batch *Batch, together bool) error {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer conn.Release()
	w := &work{Commands: c, tx: &transaction{conn: conn}, batch: batch}
	if together {
		w.held, w.heldKeys = make(map[string]string), make(map[[16]byte]bool)
	}
	committed := false
	defer func() {
		if !committed {
			_ = w.tx.rollback(ctx) // the server does it when the connection is gone
		}
	}()
	if err := w.begin(ctx); err != nil {
		return err
	}
	for i := range batch.Deliveries {
		if batch.Skip(i) {
			continue
		}
		if err := w.deliver(ctx, i); err != nil {
			return err
		}
	}
	if err := w.handleGroups(ctx); err != nil {
		return err
	}
	if err := w.commit(ctx); err != nil {
		return err
	}
	committed = true
	if len(w.out) > 0 {
		c.config.Wake()
	}
	if len(w.replies) > 0 {
		c.config.Replies.Send(w.replies...)
	}
	return nil
}

package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/telemetry"
)

// Item is one of the commands that a handler of [HandleAll] is given at once. The
// handler sets Reply or Err.
type Item[Q, R any] struct {
	// Context is that of this command, for [Command], [Emit] and [DeferredKey].
	Context context.Context
	Request Q
	Reply   R
	// Err ends the command without a reply: a rejection ([events.Reject]) or
	// [ErrDeferred]. What fn wrote for the others stays, so it must have written
	// nothing for a command that it rejects.
	Err error
}

// HandleAll returns the handler of a command that takes what has arrived of it
// together, so that one statement can write for hundreds of commands. In all
// else it is as [Handle]: each command has its own entry in the inbox and its own
// reply, and commands of one partition key are handled in order.
//
// An error of fn, or an Err that is neither a rejection nor [ErrDeferred], undoes
// the whole transaction, and fn is called again for each command alone, as a
// handler of [Handle] is, to find the one that fails.
func HandleAll[Q, R any](command events.Command[Q, R], fn func(ctx context.Context, tx pgx.Tx, items []Item[Q, R]) error) Handler {
	all := func(ctx context.Context, tx pgx.Tx, calls []call) error {
		items := make([]Item[Q, R], len(calls))
		for i := range calls {
			request, err := command.Request(calls[i].event)
			if err != nil {
				return Terminal(err)
			}
			items[i] = Item[Q, R]{Context: calls[i].ctx, Request: request}
		}
		if err := fn(ctx, tx, items); err != nil {
			return err
		}
		for i := range items {
			if calls[i].err = items[i].Err; calls[i].err != nil {
				continue
			}
			var err error
			if calls[i].reply, err = encodeReply(items[i].Reply); err != nil {
				return err
			}
		}
		return nil
	}
	return Handler{
		contract: command.Describe(),
		all:      all,
		run: func(ctx context.Context, tx pgx.Tx, e *events.Event) ([]byte, error) {
			one := []call{{ctx: ctx, event: e}}
			if err := all(ctx, tx, one); err != nil {
				return nil, err
			}
			return one[0].reply, one[0].err
		},
	}
}

// call is one command of a group, and how it ended.
type call struct {
	ctx   context.Context // of this command
	event *events.Event
	reply []byte
	err   error
}

// group is commands of one type that wait to be handled together.
type group struct {
	handler Handler
	members []member
}

// member is a delivery of a group.
type member struct {
	i   int
	key [16]byte // of its inbox entry
}

// errTogether means that a batch cannot be handled in groups.
var errTogether = errors.New("commands could not be handled together")

// hold puts delivery i off until its group is handled.
func (w *work) hold(i int, key [16]byte, handler Handler) {
	e := &w.batch.Deliveries[i].Event
	at := slices.IndexFunc(w.groups, func(g *group) bool { return g.handler.contract.Type == e.Type })
	if at < 0 {
		at = len(w.groups)
		w.groups = append(w.groups, &group{handler: handler})
	}
	w.groups[at].members = append(w.groups[at].members, member{i, key})
	w.held[e.Key()] = e.Type
	w.heldKeys[key] = true
}

// yield handles the group that holds something which the event must come after:
// another command of its partition key, itself, or what it undoes. A command that
// would join that very group keeps its order in it.
func (w *work) yield(ctx context.Context, e *events.Event, key [16]byte) error {
	if len(w.groups) == 0 {
		return nil
	}
	holds, held := w.held[e.Key()]
	again := w.heldKeys[key] || e.Undoes != "" && w.heldKeys[w.key(e.Source, e.Undoes)]
	if again || held && holds != e.Type {
		return w.handleGroups(ctx)
	}
	return nil
}

// handleGroups handles all groups, those that began first before the others.
func (w *work) handleGroups(ctx context.Context) error {
	groups := w.groups
	w.groups = nil
	clear(w.held)
	clear(w.heldKeys)
	for _, g := range groups {
		if err := w.handleGroup(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) handleGroup(ctx context.Context, g *group) error {
	calls := make([]call, len(g.members))
	scopes := make([]scope, len(g.members))
	spans := make([]trace.Span, len(g.members))
	for n, m := range g.members {
		e := &w.batch.Deliveries[m.i].Event
		own, span := telemetry.StartConsume(ctx, w.config.Tracer, w.config.Name, e)
		defer span.End()
		scopes[n] = scope{consumer: w.config.Name, event: e}
		calls[n] = call{ctx: context.WithValue(own, scopeKey{}, &scopes[n]), event: e}
		spans[n] = span
	}
	if err := w.callAll(ctx, g.handler, calls); err != nil {
		return fmt.Errorf("%w: %s", errTogether, err.Error())
	}
	if w.tx.status() == 'E' {
		return fmt.Errorf("%w: the handler passed over the error of a statement", errTogether)
	}
	for n, m := range g.members {
		if err := w.end(calls[n].ctx, spans[n], m.i, m.key, g.handler, calls[n].reply, calls[n].err, scopes[n].emitted); err != nil {
			return err
		}
		if w.batch.Skip(m.i) {
			return errTogether // the failure is this one's, and the transaction holds its writes
		}
	}
	return nil
}

func (w *work) callAll(ctx context.Context, handler Handler, calls []call) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("handler of %s panicked: %v", handler.contract.Type, p)
		}
	}()
	if err := handler.all(ctx, w.tx, calls); err != nil {
		return err
	}
	for i := range calls {
		var rejection *events.Rejection
		if err := calls[i].err; err != nil && !errors.Is(err, ErrDeferred) && !errors.As(err, &rejection) {
			return err
		}
	}
	return nil
}

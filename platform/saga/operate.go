package saga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/postgres"
)

// Condition says when an order is carried out. The zero value is always, at once.
type Condition struct {
	// Revision is the one that the saga must have: that which whoever gives the
	// order has seen. 0 for any.
	Revision int64
	// DryRun tells what the order would do, and does nothing.
	DryRun bool
}

// Told is what came of an order, or would come of it.
type Told struct {
	// Saga is how it stands after the order, and Revision which one that is.
	Saga     Instance
	Revision int64
	// Sends is what the order made it send at once, in that order. What replies
	// bring about later is not in it; see [Engine.Preview].
	Sends []Planned
}

// Planned is a message that a saga sends, or a local step that it runs.
type Planned struct {
	// Step that wants it; empty for the outcome of the saga and for the answer to
	// its parent.
	Step string `json:"step,omitempty"`
	// Kind of the step, as of [StepRecord]: empty for a command, an outcome or an
	// answer; a local step sends nothing.
	Kind string `json:"kind,omitempty"`
	// Type, Topic and ID are of the message.
	Type  string       `json:"type,omitempty"`
	Topic events.Topic `json:"topic,omitempty"`
	ID    string       `json:"id,omitempty"`
	// Undo says that it is a compensation, InDoubt that nobody knows whether what
	// it undoes was done.
	Undo    bool `json:"undo,omitempty"`
	InDoubt bool `json:"in_doubt,omitempty"`
	// Request is the payload.
	Request json.RawMessage `json:"request,omitempty"`
}

// Order tells a saga what to do. It races replies, timers and other operators
// through the revision of the saga: whoever is first wins, and the order is
// decided anew on what the saga is then.
//
// The error is an [*OrderError] when the saga cannot do it, in which case nothing
// has changed. With [postgres.ErrCommitUnknown] the database was lost while it
// was asked, and nobody can tell: read the saga, whose history holds the order if
// it was given. Any other error means that nothing was done.
//
// Once the order is on its way to the database it is carried through, whatever
// becomes of ctx, within half a minute.
func (e *Engine) Order(ctx context.Context, id string, order Order, when Condition) (Told, error) {
	if len(order.Data) > 0 && !json.Valid(order.Data) {
		return Told{}, refuse("invalid_data", "the data is not JSON")
	}
	if err := sized(order.Data, nil); err != nil {
		return Told{}, refuse("invalid_data", "the data cannot be stored: %v", err)
	}
	return e.tell(ctx, id, when, nil, func(*Program, *Instance) (Input, error) { return Input{Order: &order}, nil })
}

// tellTimeout bounds an order that is on its way to the database.
const tellTimeout = 30 * time.Second

// doubt is a transition of which nobody has told whether it committed.
type doubt struct {
	told  Told
	entry []byte
	t     *transition
}

// tell runs an input through the compare-and-swap until it is applied or refused.
// prepare makes the input for the saga as it is; an input that is ignored then has
// been given before.
func (e *Engine) tell(
	ctx context.Context, id string, when Condition, cause *events.Event, prepare func(p *Program, in *Instance) (Input, error),
) (Told, error) {
	key, err := uuid.Parse(id)
	if err != nil {
		return Told{}, noSaga(id)
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellTimeout)
	defer cancel()
	var doubts []doubt
	for attempt := 0; ; attempt++ {
		if len(doubts) == 0 && caller.Err() != nil {
			return Told{}, fmt.Errorf("order to saga %s: %w", id, caller.Err())
		}
		t := e.newTransition()
		t.found, t.now, err = load(ctx, e.pool, []uuid.UUID{key})
		if err == nil && len(doubts) > 0 {
			// What has been read is not older than what is looked up now, so a
			// transition that commits later than that fails the guard below.
			var told *Told
			if told, err = e.settleDoubt(ctx, key, doubts); told != nil {
				e.config.Wake()
				return *told, nil
			}
		}
		switch {
		case err != nil && len(doubts) == 0:
			return Told{}, err
		case err != nil:
			if !pauseFor(ctx, time.Duration(attempt)*50*time.Millisecond) {
				return Told{}, fmt.Errorf("order to saga %s: %w: %w", id, postgres.ErrCommitUnknown, err)
			}
			continue
		}
		saga := t.found[key]
		if saga == nil {
			return Told{}, noSaga(id)
		}
		if when.Revision > 0 && saga.revision != when.Revision {
			return Told{}, refuse("revision_moved", "the saga is at revision %d, not %d: look at it again", saga.revision, when.Revision)
		}
		before := saga.Instance
		input, err := e.prepare(saga, prepare)
		if err != nil {
			return Told{}, err
		}
		verdict, err := t.decide(ctx, saga, input, cause)
		switch {
		case err != nil:
			return Told{}, fmt.Errorf("order to saga %s: %w", id, err)
		case t.refused != nil:
			return Told{}, t.refused
		case verdict == Ignored:
			return Told{Saga: before, Revision: saga.revision}, nil
		}
		c := t.changed[key]
		told := Told{Saga: c.after.Instance, Revision: c.after.revision, Sends: planned(&before, &c.after.Instance, slices.Concat(t.direct, t.out))}
		if when.DryRun {
			return told, nil
		}
		err = t.commit(ctx, &pgx.Batch{})
		switch {
		case err == nil:
			return told, nil
		case errors.Is(err, postgres.ErrCommitUnknown):
			doubts = append(doubts, doubt{told, c.entries[len(c.entries)-1], t})
		case !isConflict(err):
			return Told{}, fmt.Errorf("order to saga %s: %w", id, err)
		default:
			e.metrics.conflicts.Inc()
			if attempt >= attemptsMax*attemptsMax {
				return Told{}, refuse("revision_moved", "the saga keeps changing; look at it again")
			}
		}
	}
}

// prepare makes the input for a saga with the definition that will decide on it.
func (e *Engine) prepare(saga *stored, prepare func(p *Program, in *Instance) (Input, error)) (Input, error) {
	program, taken, err := e.program(saga)
	if err != nil {
		return Input{}, refuse("definition_missing", "%v", err)
	}
	return prepare(program, or(taken, &saga.Instance))
}

func noSaga(id string) error { return refuse("saga_not_found", "there is no saga %s", id) }

// settleDoubt returns what came of the transition among doubts that committed, nil
// when none has. An entry holds its time and its order, so no other one equals it.
func (e *Engine) settleDoubt(ctx context.Context, id uuid.UUID, doubts []doubt) (*Told, error) {
	for i := range doubts {
		var found bool
		err := e.pool.QueryRow(ctx, `
			select exists (
				select from saga as s join saga_log as g on g.saga_id = s.id and g.day = s.day
				where s.id = $1 and g.seq = $2 and g.entry = $3)`, id, doubts[i].told.Revision, doubts[i].entry).Scan(&found)
		if err != nil {
			return nil, fmt.Errorf("read what became of an order to saga %s: %w", id, err)
		}
		if found {
			doubts[i].t.dispatch()
			return &doubts[i].told, nil
		}
	}
	return nil, nil
}

// pauseFor waits, and reports false when ctx ended before.
func pauseFor(ctx context.Context, pause time.Duration) bool {
	select {
	case <-time.After(pause):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// planned describes messages of a saga that they made go from before to after.
func planned(before, after *Instance, messages []broker.Message) []Planned {
	all := make([]Planned, 0, len(messages))
	for i := range messages {
		event := &messages[i].Event
		p := Planned{Type: event.Type, Topic: messages[i].Topic, ID: event.ID, Request: event.Data, Undo: event.Undoes != ""}
		for k := range after.Steps {
			r := &after.Steps[k]
			if id := r.DoID(after.ID); id != event.ID && (!p.Undo || r.UndoID(after.ID) != event.ID) {
				continue
			}
			p.Step, p.Kind, p.InDoubt = r.Name, r.Kind, p.Undo && before.inDoubt(r.Name)
			break
		}
		all = append(all, p)
	}
	return all
}

// inDoubt reports whether nobody knows if the step was done.
func (in *Instance) inDoubt(step string) bool {
	for i := range in.Steps {
		if r := &in.Steps[i]; r.Name == step {
			return r.Status == StepRunning || r.Status == StepTimedOut || r.Status == StepCompensating && r.Done == 0
		}
	}
	return false
}

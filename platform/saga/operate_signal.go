package saga

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/countermand/countermand/events"
)

// SendSignal is the verb of [Engine.Signal] in a saga's history.
const SendSignal Verb = "signal"

// Signal tells a saga a fact in place of whoever should have: order.Data is its
// payload and order.Step names an await that takes it, or is the type of the fact.
// It is kept until it is awaited, as any signal is. The same id is taken in once; an
// empty one is made.
//
// Errors are those of [Engine.Order], and a payload that the saga could not take
// in is refused rather than given to it.
func (e *Engine) Signal(ctx context.Context, id, signalID string, order Order, when Condition) (Told, error) {
	order.Verb = SendSignal
	if order.By == "" || order.Reason == "" {
		return Told{}, noReason()
	}
	if signalID == "" {
		signalID = events.NewID()
	}
	cause := &events.Event{ID: signalID, Type: string(order.Verb), CorrelationID: id}
	return e.tell(ctx, id, when, cause, func(p *Program, in *Instance) (Input, error) {
		fact, err := p.awaited(in, order.Step)
		if err != nil {
			return Input{}, err
		}
		if err := p.palatable(in, fact, order.Data); err != nil {
			return Input{}, err
		}
		return Input{Signal: &SignalInput{ID: signalID, Type: fact, Data: order.Data, Order: &order}}, nil
	})
}

// awaited returns the type of the fact that is meant, which may be named by the
// await that takes it, or tells why the saga would ignore it.
func (p *Program) awaited(in *Instance, name string) (fact string, err error) {
	n, _, ok := p.locate(name)
	switch {
	case ok && n.kind == kindAwait:
		fact = n.do.Type
	case slices.ContainsFunc(p.order, func(n *node) bool { return n.kind == kindAwait && n.do.Type == name }):
		fact = name
	case name == "":
		return "", refuse("step_not_found", "name the await that takes the signal, or the type of the fact")
	default:
		return "", refuse("signal_not_awaited", "%s version %d awaits no %s", p.Name, p.Version, name)
	}
	switch {
	case in.Status.Final():
		return "", refuse("saga_ended", "the saga has ended %s", in.Status)
	case in.Backward:
		return "", refuse("already_compensating", "the saga compensates and awaits nothing any more")
	case len(in.Signals) >= signalsMax:
		return "", refuse("too_many_signals", "the saga keeps %d signals already that it has not awaited yet", len(in.Signals))
	}
	return fact, nil
}

// palatable refuses a payload that no fold could take: taken in, it would make the
// saga compensate or get stuck.
func (p *Program) palatable(in *Instance, fact string, data json.RawMessage) error {
	if len(data) > 0 && !json.Valid(data) {
		return refuse("invalid_data", "the data is not JSON")
	}
	if err := sized(data, nil); err != nil {
		return refuse("invalid_data", "the data cannot be stored: %v", err)
	}
	taste := func(n *node, at *scope) error {
		d := decision{program: p, Instance: *in}
		d.Steps = slices.Clone(in.Steps)
		if err := d.fold(n, at, data); err != nil {
			return refuse("invalid_data", "the saga cannot take that as %s: %v", fact, err)
		}
		return nil
	}
	for i := range in.Steps {
		n, at, ok := p.locate(in.Steps[i].Name)
		if ok && n.kind == kindAwait && n.do.Type == fact && in.Steps[i].Status == StepRunning {
			return taste(n, at)
		}
	}
	for _, n := range p.order { // it has not come to the await yet
		if n.kind == kindAwait && n.do.Type == fact && n.depth == 0 {
			return taste(n, nil)
		}
	}
	return nil
}

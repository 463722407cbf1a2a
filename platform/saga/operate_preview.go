package saga

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Preview tells what the compensation of a saga would do.
type Preview struct {
	ID       string `json:"id"`
	Revision int64  `json:"revision"`
	// Status is that of the saga now, Ends what it would come to: compensated, or
	// stuck with that Trouble when the definition's own code fails on the way.
	Status  Status   `json:"status"`
	Ends    Status   `json:"ends"`
	Trouble *Failure `json:"trouble,omitempty"`
	// Sends are the compensations, in the order in which they are sent when every
	// one is answered at once and with yes. Those that were sent already, and are
	// awaited, are not among them.
	Sends []Planned `json:"sends"`
}

// Preview tells exactly what [Compensate] would send, or what is still to be sent
// by a saga that compensates. Nothing is changed. It is as good as the saga's
// revision: when that has moved, ask again.
//
// The error is an [*OrderError] when the saga cannot compensate.
func (e *Engine) Preview(ctx context.Context, id string) (Preview, error) {
	key, err := uuid.Parse(id)
	if err != nil {
		return Preview{}, noSaga(id)
	}
	found, now, err := load(ctx, e.pool, []uuid.UUID{key})
	if err != nil {
		return Preview{}, err
	}
	saga := found[key]
	if saga == nil {
		return Preview{}, noSaga(id)
	}
	program, taken, err := e.program(saga)
	if err != nil {
		return Preview{}, refuse("definition_missing", "%v", err)
	}
	preview, err := program.Preview(*or(taken, &saga.Instance), now)
	preview.Revision = saga.revision
	return preview, err
}

// Preview plays the compensation of a saga to its end, every undo answered with
// yes. It is pure.
func (p *Program) Preview(in Instance, now time.Time) (Preview, error) {
	preview := Preview{ID: in.ID, Status: in.Status}
	out := in
	var effects []Effect
	if in.Backward && !in.Status.Final() {
		// One that was paused when it turned round has not begun to undo.
		d := decision{program: p, Instance: in, now: now}
		d.Steps, d.Paused = slices.Clone(in.Steps), false
		d.settle()
		d.seal()
		out, effects = d.Instance, d.effects
	} else {
		var err error
		out, effects, err = p.Obey(in, Order{Verb: Compensate, By: "preview", Reason: "preview"}, now)
		if err != nil {
			return preview, err
		}
	}
	var open []string // compensations that are not answered yet, the oldest first
	answered := make(map[string]bool)
	for {
		for i := range effects {
			if effects[i].Answers != "" {
				continue // the parent's, after the end
			}
			preview.Sends = append(preview.Sends, Planned{
				Step: effects[i].Step, Kind: out.kindOf(effects[i].Step), Type: effects[i].Type, Topic: effects[i].Topic, ID: effects[i].ID,
				Undo: true, InDoubt: in.inDoubt(effects[i].Step), Request: effects[i].Data,
			})
		}
		for i := range out.Steps {
			r := &out.Steps[i]
			if r.Status != StepCompensating || answered[r.Name] || slices.Contains(open, r.Name) {
				continue
			}
			open = append(open, r.Name)
			if r.Kind == string(kindLocal) {
				preview.Sends = append(preview.Sends, Planned{Step: r.Name, Kind: r.Kind, Undo: true})
			}
		}
		if len(open) == 0 || out.Status.Final() {
			break
		}
		next := open[0]
		open, answered[next] = open[1:], true
		out, effects, _ = p.Decide(out, p.yes(&out, next), now)
	}
	preview.Ends, preview.Trouble = out.Status, out.Trouble
	return preview, nil
}

// yes is the answer that a compensation wants.
func (p *Program) yes(in *Instance, step string) Input {
	for i := range in.Steps {
		r := &in.Steps[i]
		if r.Name == step && r.Kind != string(kindLocal) {
			return Input{Reply: &ReplyInput{CommandID: r.UndoID(in.ID)}}
		}
	}
	return Input{Local: &LocalInput{Step: step, Undo: true, State: in.State, Items: map[string][]json.RawMessage{}}}
}

func (in *Instance) kindOf(step string) string {
	for i := range in.Steps {
		if in.Steps[i].Name == step {
			return in.Steps[i].Kind
		}
	}
	return ""
}

package sagatest

import (
	"fmt"
	"strings"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// receipt is what a participant's inbox knows of a command.
type receipt struct {
	data      []byte
	rejection *events.Rejection
	revoked   bool
}

// effective reports whether the command took effect.
func (r receipt) effective() bool { return !r.revoked && r.rejection == nil }

// obey is a participant: one transaction writes its inbox, its effect and its
// reply. A command that it has seen is answered again, and one whose undo came
// first has no effect any more.
func (w *world) obey(m message) {
	c := m.command
	if w.mood(m) == deaf || w.unwinding.hold(w, m) {
		return
	}
	if w.happens(crashBeforeCommit) {
		w.redeliver(m)
		return
	}
	known, seen := w.inbox[c.ID]
	undo := c.Undoes != ""
	if undo && w.setup.flaw == UndoNotDeduplicated || !undo && w.setup.flaw == NoInbox {
		seen = false
	}
	if !seen {
		var err error
		if known, err = w.handle(m); err != nil {
			w.broken(err)
			return
		}
		w.inbox[c.ID] = known
	}
	if undo {
		w.unwinding.release(w, c.Undoes)
	}
	if w.happens(crashAfterCommit) {
		w.redeliver(m)
	}
	if w.mood(m) == mute {
		return
	}
	reply := saga.ReplyInput{CommandID: c.ID, Data: known.data, Rejection: known.rejection}
	label := "reply of " + c.Step
	switch {
	case known.revoked:
		reply.Rejection = &events.Rejection{Code: "revoked", Message: "it was undone before it came"}
		label = "revocation of " + c.Step
	case known.rejection != nil:
		label = fmt.Sprintf("rejection of %s: %s", c.Step, known.rejection.Code)
	}
	w.database.replies++
	answer := message{
		key: m.sender, to: toEngines, target: m.sender, publish: fmt.Sprint("reply ", c.ID, ".", w.database.replies), label: label,
		input: saga.Input{Reply: &reply},
	}
	w.after(w.while(), func() { w.publish(answer) })
}

// handle gives a command its effect, once.
func (w *world) handle(m message) (receipt, error) {
	c := m.command
	if c.Undoes != "" {
		return w.handleUndo(m)
	}
	if w.unwinding.fails(w, m.sender, c.ID, c.Step) {
		w.tracef("   %s: %s says no", w.name(m.sender), c.Step)
		return receipt{rejection: rejected(unwound)}, nil
	}
	if w.happens(reject) {
		codes := append([]events.Code{"refused"}, w.commands[c.Type].Rejections...)
		code := codes[w.rng.IntN(len(codes))]
		w.tracef("   %s: %s says no: %s", w.name(m.sender), c.Step, code)
		return receipt{rejection: &events.Rejection{Code: code, Message: "no"}}, nil
	}
	data, rejection, err := w.answer(c)
	if err != nil || rejection != nil {
		return receipt{rejection: rejection}, err
	}
	w.tracef("   %s: %s is done", w.name(m.sender), c.Step)
	return receipt{data: data}, w.ledger.do(c.ID, m.sender, c.Step)
}

func (w *world) handleUndo(m message) (receipt, error) {
	c := m.command
	if w.happens(refuse) {
		w.tracef("   %s: undo of %s is refused", w.name(m.sender), c.Step)
		return receipt{rejection: &events.Rejection{Code: "refused", Message: "no"}}, nil
	}
	target, seen := w.inbox[c.Undoes]
	switch {
	case !seen && w.setup.flaw == NoTombstone:
		return receipt{}, nil
	case !seen:
		w.tracef("   %s: %s is revoked before it came", w.name(m.sender), c.Step)
		w.inbox[c.Undoes] = receipt{revoked: true}
		w.ledger.revoke(c.Undoes, m.sender, c.Step)
		return receipt{}, nil
	case !target.effective():
		return receipt{}, nil
	}
	data, rejection, err := w.answer(c)
	if err != nil || rejection != nil {
		return receipt{rejection: rejection}, err
	}
	w.tracef("   %s: %s is undone", w.name(m.sender), c.Step)
	return receipt{data: data}, w.ledger.undo(c.Undoes, m.sender, c.Step)
}

// answer makes the reply to a command.
func (w *world) answer(c *saga.Effect) ([]byte, *events.Rejection, error) {
	if own, ok := w.setup.replies[c.Type]; ok {
		return own(c.Data)
	}
	d, ok := w.commands[c.Type]
	if !ok || c.Undoes != "" {
		return nil, nil, nil
	}
	data, err := fakeJSON(random(w.seed, c.ID), d.Reply)
	return data, nil, err
}

// mood is what a participant suffers from with that step of a saga until all heals.
func (w *world) mood(m message) fault {
	if w.healed {
		return faults
	}
	key := m.sender + m.command.Type
	mood, drawn := w.moods[key]
	if !drawn {
		mood = faults
		for _, f := range []fault{deaf, mute} {
			if w.happens(f) {
				mood = f
			}
		}
		w.moods[key] = mood
	}
	return mood
}

// nodeName returns the name of the node of a record.
func nodeName(record string) string {
	name, _, _ := strings.Cut(record, "[")
	return name
}

package sagatest

import (
	"fmt"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// message is what the simulated broker carries: an input of an engine or a command
// for a participant.
type message struct {
	key     string // of the partition: messages of one key keep their order, mostly
	to      recipient
	publish string // publish id, by which the broker drops copies
	label   string
	durable bool // it is not forgotten: a client was told that it is accepted

	target  string // saga
	started string // command type, of a start or a recall
	input   saga.Input
	attempt int // to find the saga

	command *saga.Effect
	sender  string // saga that sent the command
}

type recipient int

const (
	toEngines recipient = iota
	toParticipants
)

// brokerSim forgets publish ids after a while, and delivers what was not
// acknowledged again.
type brokerSim struct {
	window map[string]time.Time
	last   map[string]time.Time // delivery by key
}

const (
	dedupeWindow = 2 * time.Minute
	ackWait      = 5 * time.Second
)

// publish hands a message to the broker.
func (w *world) publish(m message) {
	if at, known := w.broker.window[m.publish]; known && w.now.Sub(at) < dedupeWindow {
		return
	}
	w.broker.window[m.publish] = w.now
	if w.happens(lose) && !m.durable {
		w.tracef("   lost: %s", w.label(m))
		return
	}
	w.plan(m)
	if w.happens(duplicate) || w.unwinding != nil && m.command != nil && m.command.Undoes != "" {
		w.plan(m)
	}
}

// plan plans the delivery of a message.
func (w *world) plan(m message) {
	at := w.now.Add(w.while())
	lane := fmt.Sprint(m.to, m.key)
	if w.happens(late) {
		at = at.Add(w.long())
	} else {
		if last := w.broker.last[lane]; at.Before(last) {
			at = last
		}
		w.broker.last[lane] = at
	}
	w.at(at, func() { w.deliver(m) })
}

func (w *world) deliver(m message) {
	if w.happens(drop) {
		w.tracef("   dropped: %s", w.label(m))
		w.redeliver(m)
		return
	}
	if m.to == toParticipants {
		w.obey(m)
		return
	}
	w.engines[w.rng.IntN(len(w.engines))].handle(w, m)
}

// redeliver gives a message again that was not acknowledged in time.
func (w *world) redeliver(m message) { w.after(ackWait+w.while(), func() { w.deliver(m) }) }

func (w *world) label(m message) string {
	if m.command != nil {
		arrow := "->"
		if m.command.Undoes != "" {
			arrow = "<-"
		}
		return fmt.Sprintf("%s %s %s #%d %s", w.name(m.sender), arrow, m.command.Step, m.command.Attempt, m.command.Type)
	}
	return w.name(m.target) + " " + m.label
}

// envelope addresses what a decision wants to be sent.
func (w *world) envelope(in *saga.Instance, e saga.Effect, now time.Time) message {
	id := fmt.Sprint(e.ID, ".", now.UnixMicro())
	if e.Answers != "" {
		label := "result of a child"
		if e.Rejection != nil {
			label = "failure of a child: " + string(e.Rejection.Code)
		}
		return message{
			key: in.Parent, to: toEngines, target: in.Parent, publish: fmt.Sprint("answer ", e.Answers, ".", now.UnixMicro()), label: label,
			input: saga.Input{Reply: &saga.ReplyInput{CommandID: e.Answers, Data: e.Data, Rejection: e.Rejection}},
		}
	}
	if w.starts[e.Type] != nil {
		return message{
			key: e.ID, to: toEngines, target: e.ID, publish: id, label: "start for " + e.Step, started: e.Type,
			input: saga.Input{Start: &saga.StartInput{ID: e.ID, Request: e.Data, Parent: in.ID, ReplyTo: events.Replies}},
		}
	}
	if child, ok := events.CompensatedType(e.Type); ok && w.starts[child] != nil {
		return message{
			key: e.Undoes, to: toEngines, target: e.Undoes, publish: id, label: "recall for " + e.Step, started: child,
			input: saga.Input{Recall: &saga.RecallInput{ID: e.Undoes, Parent: in.ID, ReplyTo: events.Replies, Command: e.ID}},
		}
	}
	return message{key: in.ID, to: toParticipants, publish: id, command: &e, sender: in.ID}
}

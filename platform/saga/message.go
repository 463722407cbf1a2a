package saga

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// effectMessage addresses an effect: a command to its participant, or an answer to
// the saga that waits for this one.
func effectMessage(in *Instance, effect *Effect, cause, traced *events.Event, now time.Time) (broker.Message, error) {
	if effect.Answers != "" {
		command := events.Event{ID: effect.Answers, Type: effect.Type, Subject: in.Parent, CorrelationID: in.Parent, PartitionKey: in.Parent}
		reply, err := events.NewReply(&command, sourceOf(in), effect.Data, effect.Rejection, now)
		if err != nil {
			return broker.Message{}, fmt.Errorf("answer of saga %s: %w", in.ID, err)
		}
		reply.TraceParent, reply.TraceState = traced.TraceParent, traced.TraceState
		own(in, &reply)
		// Asked for again it is sent again, which the broker must not take for a copy.
		return broker.Message{Topic: effect.Topic, PublishID: reply.ID + "." + strconv.FormatInt(now.UnixMicro(), 36), Event: reply}, nil
	}
	// A repeated command keeps its id and gets a fresh publish id, or the broker's
	// window would drop it.
	m := broker.Message{
		Topic:     effect.Topic,
		PublishID: effect.ID + "." + strconv.FormatInt(now.UnixMicro(), 36),
		Event: events.Event{
			ID: effect.ID, Source: sourceOf(in), Type: effect.Type, Subject: in.ID, Time: now,
			DataContentType: events.ContentTypeJSON, Data: effect.Data,
			CorrelationID: in.ID, CausationID: cause.ID, PartitionKey: in.ID,
			TraceParent: traced.TraceParent, TraceState: traced.TraceState,
			ReplyTo: string(events.Replies), Undoes: effect.Undoes,
		},
	}
	own(in, &m.Event)
	if effect.Undoes != "" {
		// A participant must know whether it can have forgotten what it is to undo. When
		// that was sent last says too little: it may have been handled at the first time.
		m.Event.SetExtension(events.UndoesTime, in.CreatedAt.UTC().Format(time.RFC3339Nano))
	}
	return m, nil
}

// Outcome is the payload of the event that a saga emits when its status becomes
// final or stuck, on the topic [events.Outcomes].
type Outcome struct {
	ID      string          `json:"id"`
	Saga    string          `json:"saga"`
	Version int             `json:"version"`
	Status  Status          `json:"status"`
	Failure *Failure        `json:"failure,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
}

func outcomeMessage(in *Instance, cause, traced *events.Event, now time.Time) (broker.Message, error) {
	outcome := Outcome{ID: in.ID, Saga: in.Name, Version: in.Version, Status: in.Status, Failure: in.Failure, Result: in.Result}
	if in.Status == Stuck {
		outcome.Failure = in.Trouble
	}
	data, err := json.Marshal(outcome)
	if err != nil {
		return broker.Message{}, fmt.Errorf("encode outcome of saga %s: %w", in.ID, err)
	}
	// A saga can get stuck more than once, so the time tells those apart.
	id := events.DeriveID(in.ID, "outcome", string(in.Status), now.Format(time.RFC3339Nano))
	m := broker.Message{
		Topic: events.Outcomes, PublishID: id,
		Event: events.Event{
			ID: id, Source: sourceOf(in), Type: events.OutcomeType(in.StartType, string(in.Status)), Subject: in.ID, Time: now,
			DataContentType: events.ContentTypeJSON, Data: data,
			CorrelationID: in.ID, CausationID: cause.ID, PartitionKey: in.ID,
			TraceParent: traced.TraceParent, TraceState: traced.TraceState,
		},
	}
	own(in, &m.Event)
	return m, nil
}

// own names the tenant that owns the saga, if there is one.
func own(in *Instance, e *events.Event) {
	if in.Tenant != "" {
		e.SetExtension(events.TenantExtension, in.Tenant)
	}
}

func sourceOf(in *Instance) string { return "/sagas/" + in.Name }

package saga

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/countermand/countermand/events"
)

var errEntry = errors.New("entry of a saga's history cannot be read")

// applyEntry takes an entry into the instance and tells its time and cause. The
// instance must not share its slices with another one.
func applyEntry(in *Instance, entry []byte) (at time.Time, cause Cause, err error) {
	if len(entry) == 0 || entry[0] != historyFormat {
		return at, cause, fmt.Errorf("%w: its format is unknown", errEntry)
	}
	r := reader{rest: entry[1:]}
	at = time.UnixMicro(r.varint()).UTC()
	r.at = at
	cause = r.cause()
	for len(r.rest) > 0 && r.err == nil {
		tag, value := r.field()
		r.instance(in, tag, value)
	}
	return at, cause, r.err
}

// reader reads fields; the first error stays.
type reader struct {
	rest []byte
	at   time.Time
	err  error
}

func (r *reader) fail(why string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", errEntry, why)
	}
	r.rest = nil
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail("a number is cut off")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail("a number is cut off")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) chunk() []byte {
	n := r.uvarint()
	if r.err != nil || n > uint64(len(r.rest)) {
		r.fail("a value is cut off")
		return nil
	}
	value := r.rest[:n:n]
	r.rest = r.rest[n:]
	return value
}

func (r *reader) field() (tag byte, value []byte) {
	tag = r.rest[0]
	r.rest = r.rest[1:]
	return tag, r.chunk()
}

func (r *reader) cause() (c Cause) {
	parts := bytes.SplitN(r.chunk(), []byte{0}, 3)
	if len(parts) < 3 {
		r.fail("its cause is cut off")
		return c
	}
	c.Kind, c.Event = string(parts[0]), string(parts[1])
	if len(parts[2]) > 0 {
		c.Order = new(Order)
		r.decode(parts[2], c.Order)
	}
	return c
}

func (r *reader) decode(data []byte, into any) {
	if err := json.Unmarshal(data, into); err != nil {
		r.fail(err.Error())
	}
}

func (r *reader) number(value []byte) int {
	if len(value) == 0 {
		return 0
	}
	v, n := binary.Varint(value)
	if n != len(value) {
		r.fail("a number is cut off")
	}
	return int(v)
}

func (r *reader) time(value []byte) time.Time {
	if len(value) == 0 {
		return time.Time{}
	}
	v, n := binary.Varint(value)
	if n != len(value) {
		r.fail("a time is cut off")
	}
	return time.UnixMicro(r.at.UnixMicro() + v).UTC()
}

func (r *reader) failure(value []byte) *Failure {
	if len(value) == 0 {
		return nil
	}
	f := new(Failure)
	r.decode(value, f)
	return f
}

func raw(value []byte) json.RawMessage {
	if len(value) == 0 {
		return nil
	}
	return value
}

func (r *reader) instance(in *Instance, tag byte, value []byte) {
	switch tag {
	case tagID:
		in.ID = string(value)
	case tagName:
		in.Name = string(value)
	case tagVersion:
		in.Version = r.number(value)
	case tagStatus:
		in.Status = Status(word(value))
	case tagFlags:
		flags := r.number(value)
		in.Backward, in.Pivoted, in.Paused = flags&flagBackward != 0, flags&flagPivoted != 0, flags&flagPaused != 0
	case tagState:
		in.State = raw(value)
	case tagFailure:
		in.Failure = r.failure(value)
	case tagTrouble:
		in.Trouble = r.failure(value)
	case tagResult:
		in.Result = raw(value)
	case tagStartType:
		in.StartType = string(value)
	case tagFingerprint:
		in.Fingerprint = string(value)
	case tagTenant:
		in.Tenant = string(value)
	case tagParent:
		in.Parent = string(value)
	case tagReplyTo:
		in.ReplyTo = events.Topic(value)
	case tagRecalled:
		in.Recalled = string(value)
	case tagCreatedAt:
		in.CreatedAt = r.time(value)
	case tagUpdatedAt:
		in.UpdatedAt = r.time(value)
	case tagDeadline:
		in.Deadline = r.time(value)
	case tagTraceParent:
		in.TraceParent = string(value)
	case tagTraceState:
		in.TraceState = string(value)
	case tagSignals:
		in.Signals = nil
		r.decode(value, &in.Signals)
	case tagStep:
		n := reader{rest: value, at: r.at}
		index := n.uvarint()
		if n.err != nil || index > uint64(len(in.Steps)) {
			r.fail("a step is missing")
			return
		}
		if index == uint64(len(in.Steps)) {
			in.Steps = append(in.Steps, StepRecord{})
		}
		for len(n.rest) > 0 && n.err == nil {
			tag, value := n.field()
			n.step(&in.Steps[index], tag, value)
		}
		if n.err != nil {
			r.fail(n.err.Error())
		}
	default:
		r.fail(fmt.Sprintf("field %d is unknown", tag))
	}
}

func (r *reader) step(s *StepRecord, tag byte, value []byte) {
	switch tag {
	case tagStepName:
		s.Name = string(value)
	case tagStepKind:
		s.Kind = string(value)
	case tagStepStatus:
		s.Status = StepStatus(word(value))
	case tagStepRounds:
		n := reader{rest: value}
		s.Round, s.UndoRound = int(n.uvarint()), int(n.uvarint())
		if n.err != nil {
			r.fail("a round is cut off")
		}
	case tagStepDone:
		s.Done = r.number(value)
	case tagStepCode:
		s.Code = events.Code(value)
	case tagStepChoice:
		s.Choice = r.number(value)
	case tagStepItem:
		n := reader{rest: value}
		index := n.uvarint()
		switch {
		case n.err != nil || index > uint64(len(s.Items)):
			r.fail("an item is missing")
		case index == uint64(len(s.Items)):
			s.Items = append(s.Items, n.rest)
		default:
			s.Items[index] = n.rest
		}
	case tagStepTurn:
		s.Turns = append(s.Turns, string(value))
	case tagStepOrigin:
		s.Origin = string(value)
	case tagDo:
		r.call(&s.Do, value)
	case tagUndo:
		r.call(&s.Undo, value)
	default:
		r.fail(fmt.Sprintf("field %d of a step is unknown", tag))
	}
}

func (r *reader) call(c *CallRecord, fields []byte) {
	n := reader{rest: fields, at: r.at}
	for len(n.rest) > 0 && n.err == nil {
		switch tag, value := n.field(); tag {
		case tagRequest:
			c.Request = raw(value)
		case tagReply:
			c.Reply = raw(value)
		case tagAttempts:
			c.Attempts = n.number(value)
		case tagSentAt:
			c.SentAt = n.time(value)
		case tagRetryAt:
			c.RetryAt = n.time(value)
		case tagCallDeadline:
			c.Deadline = n.time(value)
		case tagError:
			c.Error = string(value)
		default:
			n.fail(fmt.Sprintf("field %d of a call is unknown", tag))
		}
	}
	if n.err != nil {
		r.fail(n.err.Error())
	}
}

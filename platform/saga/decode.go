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
	if len(entry) == 0 || entry[0] != plainFormat && entry[0] != packedFormat {
		return at, cause, fmt.Errorf("%w: its format is unknown", errEntry)
	}
	r := reader{rest: entry[1:], packed: entry[0] == packedFormat}
	at = time.UnixMicro(r.varint()).UTC()
	r.at = at
	cause = r.cause()
	r.self = in.ID
	for len(r.rest) > 0 && r.err == nil {
		tag, value := r.field()
		r.instance(in, tag, value)
	}
	return at, cause, r.err
}

// reader reads fields; the first error stays.
type reader struct {
	rest   []byte
	at     time.Time
	packed bool   // texts are
	self   string // the id of the saga, as far as it is known
	err    error
}

// nested returns a reader of the fields in a field.
func (r *reader) nested(fields []byte) reader {
	return reader{rest: fields, at: r.at, packed: r.packed, self: r.self}
}

// text returns a text as it was before it was packed.
func (r *reader) text(value []byte) []byte {
	if !r.packed {
		return value
	}
	out, ok := unpack(value, r.self)
	if !ok {
		r.fail("an id in a text is cut off")
	}
	return out
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
	parts := bytes.SplitN(r.text(r.chunk()), []byte{0}, 3)
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
	r.decode(r.text(value), f)
	return f
}

func (r *reader) raw(value []byte) json.RawMessage {
	if len(value) == 0 {
		return nil
	}
	return r.text(value)
}

func (r *reader) instance(in *Instance, tag byte, value []byte) {
	switch tag {
	case tagID:
		in.ID = string(r.text(value))
		r.self = in.ID
	case tagName:
		in.Name = string(r.text(value))
	case tagVersion:
		in.Version = r.number(value)
	case tagStatus:
		in.Status = Status(word(value))
	case tagFlags:
		flags := r.number(value)
		in.Backward, in.Pivoted, in.Paused = flags&flagBackward != 0, flags&flagPivoted != 0, flags&flagPaused != 0
	case tagState:
		in.State = r.raw(value)
	case tagFailure:
		in.Failure = r.failure(value)
	case tagTrouble:
		in.Trouble = r.failure(value)
	case tagResult:
		in.Result = r.raw(value)
	case tagStartType:
		in.StartType = string(r.text(value))
	case tagFingerprint:
		in.Fingerprint = string(r.text(value))
	case tagTenant:
		in.Tenant = string(r.text(value))
	case tagParent:
		in.Parent = string(r.text(value))
	case tagReplyTo:
		in.ReplyTo = events.Topic(r.text(value))
	case tagRecalled:
		in.Recalled = string(r.text(value))
	case tagCreatedAt:
		in.CreatedAt = r.time(value)
	case tagUpdatedAt:
		in.UpdatedAt = r.time(value)
	case tagDeadline:
		in.Deadline = r.time(value)
	case tagTraceParent:
		in.TraceParent = string(r.text(value))
	case tagTraceState:
		in.TraceState = string(r.text(value))
	case tagSignals:
		in.Signals = nil
		r.decode(r.text(value), &in.Signals)
	case tagStep:
		n := r.nested(value)
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
		s.Name = string(r.text(value))
	case tagStepKind:
		s.Kind = string(r.text(value))
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
		s.Code = events.Code(r.text(value))
	case tagStepChoice:
		s.Choice = r.number(value)
	case tagStepItem:
		n := r.nested(value)
		index := n.uvarint()
		item := n.text(n.rest)
		switch {
		case n.err != nil || index > uint64(len(s.Items)):
			r.fail("an item is missing")
		case index == uint64(len(s.Items)):
			s.Items = append(s.Items, item)
		default:
			s.Items[index] = item
		}
	case tagStepTurn:
		s.Turns = append(s.Turns, string(r.text(value)))
	case tagStepOrigin:
		s.Origin = string(r.text(value))
	case tagDo:
		r.call(&s.Do, value)
	case tagUndo:
		r.call(&s.Undo, value)
	default:
		r.fail(fmt.Sprintf("field %d of a step is unknown", tag))
	}
}

func (r *reader) call(c *CallRecord, fields []byte) {
	n := r.nested(fields)
	for len(n.rest) > 0 && n.err == nil {
		switch tag, value := n.field(); tag {
		case tagRequest:
			c.Request = n.raw(value)
		case tagReply:
			c.Reply = n.raw(value)
		case tagAttempts:
			c.Attempts = n.number(value)
		case tagSentAt:
			c.SentAt = n.time(value)
		case tagRetryAt:
			c.RetryAt = n.time(value)
		case tagCallDeadline:
			c.Deadline = n.time(value)
		case tagError:
			c.Error = string(n.text(value))
		default:
			n.fail(fmt.Sprintf("field %d of a call is unknown", tag))
		}
	}
	if n.err != nil {
		r.fail(n.err.Error())
	}
}

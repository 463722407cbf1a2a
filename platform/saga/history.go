package saga

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Cause is why a saga changed.
type Cause struct {
	// Kind is start, reply, signal, timer, local, lock, recall, order or takeover.
	Kind string `json:"kind"`
	// Event is the id of the event that was taken in, if any.
	Event string `json:"event,omitempty"`
	// Order is what an operator or a client wanted.
	Order *Order `json:"order,omitempty"`
}

// The history of a saga is the saga: each transition appends one entry, which
// holds what it changed, and reading them all gives the instance. Nothing else is
// stored of it. An entry is
//
//	format, time, cause, then fields of the instance: tag, length, value
//
// in the order of the tags below, with times in microseconds relative to that of
// the entry. Each entry is hashed together with the hash of the one before; the
// row of the saga holds the last hash, so no entry can be changed, left out or
// added without a trace.
const historyFormat = 1

// Tags of the fields. A value of no bytes is the zero value.
const (
	tagID = iota + 1
	tagName
	tagVersion
	tagStatus
	tagFlags
	tagState
	tagFailure
	tagTrouble
	tagResult
	tagStartType
	tagFingerprint
	tagParent
	tagReplyTo
	tagRecalled
	tagCreatedAt
	tagUpdatedAt
	tagDeadline
	tagTraceParent
	tagTraceState
	tagSignals
	tagStep
	tagTenant
)

// Tags of the fields of a step.
const (
	tagStepName = iota + 1
	tagStepKind
	tagStepStatus
	tagStepRounds
	tagStepDone
	tagStepCode
	tagStepChoice
	tagStepItem
	tagStepTurn
	tagStepOrigin
	tagDo
	tagUndo
)

// Tags of the fields of a call.
const (
	tagRequest = iota + 1
	tagReply
	tagAttempts
	tagSentAt
	tagRetryAt
	tagCallDeadline
	tagError
)

// Flags of an instance.
const (
	flagBackward = 1 << iota
	flagPivoted
	flagPaused
)

// encodeEntry returns the entry that makes after out of before, the zero Instance
// for the first one and for one that stands for all before it.
func encodeEntry(before, after *Instance, cause Cause, at time.Time) ([]byte, error) {
	w := writer{buffer: make([]byte, 0, 512), at: at}
	w.buffer = append(w.buffer, historyFormat)
	w.buffer = binary.AppendVarint(w.buffer, at.UnixMicro())
	if err := w.cause(cause); err != nil {
		return nil, err
	}
	w.text(tagID, before.ID, after.ID)
	w.text(tagName, before.Name, after.Name)
	w.number(tagVersion, before.Version, after.Version)
	w.word(tagStatus, string(before.Status), string(after.Status))
	w.number(tagFlags, before.flags(), after.flags())
	w.bytes(tagState, before.State, after.State)
	if err := errors.Join(w.json(tagFailure, before.Failure, after.Failure), w.json(tagTrouble, before.Trouble, after.Trouble)); err != nil {
		return nil, err
	}
	w.bytes(tagResult, before.Result, after.Result)
	w.text(tagStartType, before.StartType, after.StartType)
	w.text(tagFingerprint, before.Fingerprint, after.Fingerprint)
	w.text(tagParent, before.Parent, after.Parent)
	w.text(tagReplyTo, string(before.ReplyTo), string(after.ReplyTo))
	w.text(tagRecalled, before.Recalled, after.Recalled)
	w.time(tagCreatedAt, before.CreatedAt, after.CreatedAt)
	w.time(tagUpdatedAt, before.UpdatedAt, after.UpdatedAt)
	w.time(tagDeadline, before.Deadline, after.Deadline)
	w.text(tagTraceParent, before.TraceParent, after.TraceParent)
	w.text(tagTraceState, before.TraceState, after.TraceState)
	w.text(tagTenant, before.Tenant, after.Tenant)
	if !slices.EqualFunc(before.Signals, after.Signals, func(a, b SignalRecord) bool { return a.ID == b.ID }) {
		data, err := json.Marshal(after.Signals)
		if err != nil {
			return nil, fmt.Errorf("encode signals: %w", err)
		}
		w.value(tagSignals, data)
	}
	for i := range after.Steps {
		known := &StepRecord{}
		if i < len(before.Steps) {
			known = &before.Steps[i]
		}
		if w.step(known, &after.Steps[i]); w.inner > 0 {
			w.close(tagStep, i)
		}
	}
	return w.buffer, nil
}

func (in *Instance) flags() (flags int) {
	if in.Backward {
		flags |= flagBackward
	}
	if in.Pivoted {
		flags |= flagPivoted
	}
	if in.Paused {
		flags |= flagPaused
	}
	return flags
}

// writer appends fields that differ.
type writer struct {
	buffer []byte
	at     time.Time
	scrap  []byte // of the field that is being nested
	inner  int
}

func (w *writer) cause(c Cause) error {
	data := append([]byte(c.Kind), 0)
	data = append(append(data, c.Event...), 0)
	if c.Order != nil {
		order, err := json.Marshal(c.Order)
		if err != nil {
			return fmt.Errorf("encode order: %w", err)
		}
		data = append(data, order...)
	}
	w.buffer = binary.AppendUvarint(w.buffer, uint64(len(data)))
	w.buffer = append(w.buffer, data...)
	return nil
}

func (w *writer) value(tag byte, value []byte) {
	w.buffer = append(w.buffer, tag)
	w.buffer = binary.AppendUvarint(w.buffer, uint64(len(value)))
	w.buffer = append(w.buffer, value...)
}

func (w *writer) text(tag byte, before, after string) {
	if before != after {
		w.value(tag, []byte(after))
	}
}

// words are written as their place in this list, which must keep its order.
var words = []string{
	string(Running), string(Compensating), string(Completed), string(Compensated), string(Stuck), string(Abandoned),
	string(StepDone), string(StepRejected), string(StepTimedOut), string(StepCancelled),
}

func (w *writer) word(tag byte, before, after string) {
	if before == after {
		return
	}
	if i := slices.Index(words, after); i >= 0 {
		w.value(tag, []byte{byte(i)})
		return
	}
	w.value(tag, []byte(after))
}

func word(value []byte) string {
	if len(value) == 1 && int(value[0]) < len(words) {
		return words[value[0]]
	}
	return string(value)
}

func (w *writer) bytes(tag byte, before, after []byte) {
	if !bytes.Equal(before, after) {
		w.value(tag, after)
	}
}

func (w *writer) number(tag byte, before, after int) {
	if before != after {
		w.value(tag, binary.AppendVarint(nil, int64(after)))
	}
}

func (w *writer) time(tag byte, before, after time.Time) {
	switch {
	case before.Equal(after):
	case after.IsZero():
		w.value(tag, nil)
	default:
		w.value(tag, binary.AppendVarint(nil, after.UnixMicro()-w.at.UnixMicro()))
	}
}

func (w *writer) json(tag byte, before, after *Failure) error {
	switch {
	case after == nil && before != nil:
		w.value(tag, nil)
	case after != nil && (before == nil || *before != *after):
		data, err := json.Marshal(after)
		if err != nil {
			return fmt.Errorf("encode failure: %w", err)
		}
		w.value(tag, data)
	}
	return nil
}

// step writes into the scrap what differs between two records of a step.
func (w *writer) step(before, after *StepRecord) {
	n := writer{buffer: w.scrap[:0], at: w.at}
	n.text(tagStepName, before.Name, after.Name)
	n.text(tagStepKind, before.Kind, after.Kind)
	n.word(tagStepStatus, string(before.Status), string(after.Status))
	if before.Round != after.Round || before.UndoRound != after.UndoRound {
		n.value(tagStepRounds, binary.AppendUvarint(binary.AppendUvarint(nil, uint64(after.Round)), uint64(after.UndoRound)))
	}
	n.number(tagStepDone, before.Done, after.Done)
	n.text(tagStepCode, string(before.Code), string(after.Code))
	n.number(tagStepChoice, before.Choice, after.Choice)
	for i, item := range after.Items {
		if i >= len(before.Items) || !bytes.Equal(before.Items[i], item) {
			n.value(tagStepItem, append(binary.AppendUvarint(nil, uint64(i)), item...))
		}
	}
	for _, turn := range after.Turns[len(before.Turns):] {
		n.value(tagStepTurn, []byte(turn))
	}
	n.text(tagStepOrigin, before.Origin, after.Origin)
	n.call(tagDo, &before.Do, &after.Do)
	n.call(tagUndo, &before.Undo, &after.Undo)
	w.scrap, w.inner = n.buffer, len(n.buffer)
}

func (w *writer) call(tag byte, before, after *CallRecord) {
	n := writer{buffer: w.scrap[:0], at: w.at}
	n.bytes(tagRequest, before.Request, after.Request)
	n.bytes(tagReply, before.Reply, after.Reply)
	n.number(tagAttempts, before.Attempts, after.Attempts)
	n.time(tagSentAt, before.SentAt, after.SentAt)
	n.time(tagRetryAt, before.RetryAt, after.RetryAt)
	n.time(tagCallDeadline, before.Deadline, after.Deadline)
	n.text(tagError, before.Error, after.Error)
	if w.scrap = n.buffer; len(n.buffer) > 0 {
		w.value(tag, n.buffer)
	}
}

// close appends the scrap as a field with an index.
func (w *writer) close(tag byte, index int) {
	w.buffer = append(w.buffer, tag)
	prefix := binary.AppendUvarint(nil, uint64(index))
	w.buffer = binary.AppendUvarint(w.buffer, uint64(len(prefix)+len(w.scrap)))
	w.buffer = append(append(w.buffer, prefix...), w.scrap...)
}

// chain returns the hash of an entry after the one that has that hash.
func chain(previous []byte, entry []byte) []byte {
	h := sha256.New()
	h.Write(previous)
	h.Write(entry)
	return h.Sum(nil)
}

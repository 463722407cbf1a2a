package saga

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/countermand/countermand/events"
)

// encodeEntry returns the entry that makes after out of before, the zero Instance
// for the first one and for one that stands for all before it.
func encodeEntry(before, after *Instance, cause Cause, at time.Time) ([]byte, error) {
	w := writer{buffer: make([]byte, 0, 512), at: at, packs: true}
	if err := w.entry(before, after, cause); err != nil || w.packs {
		return w.buffer, err
	}
	w.buffer = w.buffer[:0]
	err := w.entry(before, after, cause)
	return w.buffer, err
}

// entry writes it, packed or plain. When it turns out that it cannot be packed, packs
// is false afterwards.
func (w *writer) entry(before, after *Instance, cause Cause) error {
	format := byte(plainFormat)
	if w.packs {
		format = packedFormat
	}
	w.buffer = append(w.buffer, format)
	w.buffer = binary.AppendVarint(w.buffer, w.at.UnixMicro())
	if err := w.cause(cause); err != nil {
		return err
	}
	w.text(tagID, before.ID, after.ID)
	w.self, _ = events.UUIDOf(after.ID) // whoever reads on knows it
	w.text(tagName, before.Name, after.Name)
	w.number(tagVersion, before.Version, after.Version)
	w.word(tagStatus, string(before.Status), string(after.Status))
	w.number(tagFlags, before.flags(), after.flags())
	w.bytes(tagState, before.State, after.State)
	if err := errors.Join(w.json(tagFailure, before.Failure, after.Failure), w.json(tagTrouble, before.Trouble, after.Trouble)); err != nil {
		return err
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
			return fmt.Errorf("encode signals: %w", err)
		}
		w.packed(tagSignals, data)
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
	return nil
}

// writer appends fields that differ.
type writer struct {
	buffer []byte
	at     time.Time
	scrap  []byte // of the field that is being nested
	inner  int
	packs  bool      // texts; false once one was met that cannot be
	self   uuid.UUID // of the saga, as far as the reader knows it
	pack   []byte    // of the text that is being packed
}

// nested returns a writer of the fields of a field.
func (w *writer) nested() writer {
	return writer{buffer: w.scrap[:0], at: w.at, packs: w.packs, self: w.self, pack: w.pack}
}

// join takes back what a nested writer has found and made.
func (w *writer) join(n *writer) { w.scrap, w.packs, w.pack = n.buffer, n.packs, n.pack }

// packed appends a field that is a text.
func (w *writer) packed(tag byte, value []byte) { w.value(tag, w.squeeze(value)) }

// squeeze returns the text as it is stored. It is valid until the next call.
func (w *writer) squeeze(value []byte) []byte {
	if w.packs = w.packs && packable(value); !w.packs {
		return value
	}
	w.pack = appendPacked(w.pack[:0], value, w.self)
	return w.pack
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
	data = w.squeeze(data)
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
		w.packed(tag, []byte(after))
	}
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

func (w *writer) bytes(tag byte, before, after []byte) {
	if !bytes.Equal(before, after) {
		w.packed(tag, after)
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
		w.packed(tag, data)
	}
	return nil
}

// step writes into the scrap what differs between two records of a step.
func (w *writer) step(before, after *StepRecord) {
	n := w.nested()
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
			n.value(tagStepItem, append(binary.AppendUvarint(nil, uint64(i)), n.squeeze(item)...))
		}
	}
	for _, turn := range after.Turns[len(before.Turns):] {
		n.packed(tagStepTurn, []byte(turn))
	}
	n.text(tagStepOrigin, before.Origin, after.Origin)
	n.call(tagDo, &before.Do, &after.Do)
	n.call(tagUndo, &before.Undo, &after.Undo)
	w.join(&n)
	w.inner = len(n.buffer)
}

func (w *writer) call(tag byte, before, after *CallRecord) {
	n := w.nested()
	n.bytes(tagRequest, before.Request, after.Request)
	n.bytes(tagReply, before.Reply, after.Reply)
	n.number(tagAttempts, before.Attempts, after.Attempts)
	n.time(tagSentAt, before.SentAt, after.SentAt)
	n.time(tagRetryAt, before.RetryAt, after.RetryAt)
	n.time(tagCallDeadline, before.Deadline, after.Deadline)
	n.text(tagError, before.Error, after.Error)
	if w.join(&n); len(n.buffer) > 0 {
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

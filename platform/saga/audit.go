package saga

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Entry is one transition of a saga, as its history tells it.
type Entry struct {
	// Seq counts the entries of a saga from 1, without a gap.
	Seq   int64     `json:"seq"`
	At    time.Time `json:"at"`
	Cause Cause     `json:"cause"`
	// Status is that of the saga after the transition.
	Status Status `json:"status"`
	// Changes are the steps whose status changed.
	Changes []Change `json:"changes,omitempty"`
	// Failure and Trouble are set when the transition brought them.
	Failure *Failure `json:"failure,omitempty"`
	Trouble *Failure `json:"trouble,omitempty"`
	// Hash covers this entry and all before it.
	Hash string `json:"hash"`
}

// Change is a step that came to another status, or was called again.
type Change struct {
	Step    string     `json:"step"`
	Status  StepStatus `json:"status"`
	Attempt int        `json:"attempt,omitempty"`
}

// ErrTampered means that the history of a saga does not hash to what its row
// says: it was changed by something else than an engine.
var ErrTampered = errors.New("the history of the saga was tampered with")

// History returns every transition of a saga, oldest first, after checking that
// none was changed, left out or added; else the error is [ErrTampered].
func (r *Reader) History(ctx context.Context, id string) ([]Entry, error) {
	raw, err := r.entries(ctx, id)
	if err != nil {
		return nil, err
	}
	history, _, err := replay(raw.entries)
	if err != nil {
		return nil, fmt.Errorf("saga %s: %w", id, err)
	}
	return history, raw.verify(id)
}

// At returns the saga as it was after that entry.
func (r *Reader) At(ctx context.Context, id string, seq int64) (Instance, error) {
	raw, err := r.entries(ctx, id)
	if err != nil {
		return Instance{}, err
	}
	if seq < 1 || seq > int64(len(raw.entries)) {
		return Instance{}, fmt.Errorf("%w: saga %s has %d entries", ErrNotFound, id, len(raw.entries))
	}
	_, in, err := replay(raw.entries[:seq])
	if err != nil {
		return Instance{}, fmt.Errorf("saga %s: %w", id, err)
	}
	return in, nil
}

// Export is a saga with its whole history, to be kept elsewhere or played back in
// a test.
type Export struct {
	Saga     Instance `json:"saga"`
	Revision int64    `json:"revision"`
	History  []Entry  `json:"history"`
	// Log holds the entries as they are stored, base64, for [Import].
	Log []string `json:"log"`
}

// Export returns everything there is of a saga.
func (r *Reader) Export(ctx context.Context, id string) (Export, error) {
	raw, err := r.entries(ctx, id)
	if err != nil {
		return Export{}, err
	}
	history, in, err := replay(raw.entries)
	if err != nil {
		return Export{}, fmt.Errorf("saga %s: %w", id, err)
	}
	out := Export{Saga: in, Revision: int64(len(raw.entries)), History: history}
	for _, entry := range raw.entries {
		out.Log = append(out.Log, base64.StdEncoding.EncodeToString(entry))
	}
	return out, raw.verify(id)
}

// Import returns the saga of an [Export] after each of its entries, so that a test
// can go on from any of them. It is the work of the log alone: what else the
// export says is not looked at.
func Import(export Export) ([]Instance, error) {
	var (
		in        Instance
		instances []Instance
	)
	for i, text := range export.Log {
		entry, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
		if _, _, err := apply(&in, entry); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
		instances = append(instances, in)
	}
	return instances, nil
}

// rawHistory is a history as it is stored.
type rawHistory struct {
	entries  [][]byte
	revision int64
	hash     []byte
}

func (r *Reader) entries(ctx context.Context, id string) (raw rawHistory, err error) {
	key, err := uuid.Parse(id)
	if err != nil {
		return raw, ErrNotFound
	}
	err = r.pool.QueryRow(ctx, `
		select s.revision, s.hash, (select array_agg(g.entry order by g.seq) from saga_log as g where g.saga_id = s.id and g.day = s.day)
		from saga as s where s.id = $1`, [16]byte(key)).Scan(&raw.revision, &raw.hash, &raw.entries)
	if errors.Is(err, pgx.ErrNoRows) {
		return raw, ErrNotFound
	} else if err != nil {
		return raw, fmt.Errorf("read history of saga %s: %w", id, err)
	}
	return raw, nil
}

func (h rawHistory) verify(id string) error {
	var hash []byte
	for _, entry := range h.entries {
		hash = chain(hash, entry)
	}
	if int64(len(h.entries)) != h.revision || !bytes.Equal(hash, h.hash) {
		return fmt.Errorf("saga %s: %w: %d entries of %d are there", id, ErrTampered, len(h.entries), h.revision)
	}
	return nil
}

// replay tells the history that entries hold, and the saga they lead to.
func replay(entries [][]byte) (history []Entry, in Instance, err error) {
	var hash []byte
	for i, raw := range entries {
		before := in
		at, cause, err := apply(&in, raw)
		if err != nil {
			return nil, in, fmt.Errorf("entry %d: %w", i+1, err)
		}
		hash = chain(hash, raw)
		entry := Entry{Seq: int64(i + 1), At: at, Cause: cause, Status: in.Status, Hash: hex.EncodeToString(hash)}
		entry.Changes = changesOf(&before, &in)
		if in.Failure != nil && before.Failure == nil {
			entry.Failure = in.Failure
		}
		if in.Trouble != nil && (before.Trouble == nil || *before.Trouble != *in.Trouble) {
			entry.Trouble = in.Trouble
		}
		history = append(history, entry)
	}
	return history, in, nil
}

// apply is applyEntry on an instance of which there are copies.
func apply(in *Instance, entry []byte) (at time.Time, cause Cause, err error) {
	var probe Instance
	if at, cause, err = applyEntry(&probe, entry); err == nil && probe.ID != "" {
		*in = probe // the first, and those that stand for all before them
		return at, cause, nil
	}
	copied := *in
	copied.Steps = make([]StepRecord, len(in.Steps))
	for i, step := range in.Steps {
		step.Items, step.Turns = append(step.Items[:0:0], step.Items...), append(step.Turns[:0:0], step.Turns...)
		copied.Steps[i] = step
	}
	if at, cause, err = applyEntry(&copied, entry); err == nil {
		*in = copied
	}
	return at, cause, err
}

func changesOf(before, after *Instance) (changes []Change) {
	for i := range after.Steps {
		step := &after.Steps[i]
		attempt := step.call().Attempts
		if i < len(before.Steps) && before.Steps[i].Status == step.Status && before.Steps[i].call().Attempts == attempt {
			continue
		}
		changes = append(changes, Change{Step: step.Name, Status: step.Status, Attempt: attempt})
	}
	return changes
}

package saga

import (
	"fmt"
	"slices"
	"time"
)

// Log is the history of one saga in memory, byte for byte as engines store it. It
// is for tests and tools that stand in for the database. The zero value is that of
// a saga that does not exist yet.
type Log struct {
	change  change
	entries [][]byte
}

// Append adds the transition that makes next of the saga as it was.
func (l *Log) Append(next Instance, cause Cause, at time.Time) error {
	l.change.entries = nil
	if err := l.change.append(next, cause, at); err != nil {
		return err
	}
	l.entries = append(l.entries, l.change.entries...)
	return nil
}

// Revision returns how many entries there are.
func (l *Log) Revision() int64 { return l.change.after.revision }

// Replay returns the saga that all entries lead to, and that which the entries
// since the last one that stands for all before it do, as an engine reads them.
// Both are the saga that was appended last, or the history is broken.
func (l *Log) Replay() (all, latest Instance, err error) {
	if _, all, err = replay(l.entries); err != nil {
		return all, latest, err
	}
	for i := max(l.change.after.snapshot-1, 0); i < int64(len(l.entries)); i++ {
		if _, _, err := applyEntry(&latest, slices.Clone(l.entries[i])); err != nil {
			return all, latest, fmt.Errorf("entry %d: %w", i+1, err)
		}
	}
	return all, latest, nil
}

package saga_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// saved makes sagas of all shapes, whether or not an engine would make them.
func saved(rt *rapid.T) saga.Instance {
	in := saga.Instance{
		ID: "018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f", Name: "trip", Version: rapid.IntRange(1, 3).Draw(rt, "version"),
		Status:   rapid.SampledFrom([]saga.Status{saga.Running, saga.Compensating, saga.Stuck, saga.Completed}).Draw(rt, "status"),
		Backward: rapid.Bool().Draw(rt, "backward"), Pivoted: rapid.Bool().Draw(rt, "pivoted"), Paused: rapid.Bool().Draw(rt, "paused"),
		State: raw(rt, "state"), Failure: failure(rt), Trouble: failure(rt), Result: raw(rt, "result"),
		StartType: begin.Type(), Fingerprint: text(rt, "fingerprint"), Parent: text(rt, "parent"), ReplyTo: events.Topic(text(rt, "reply to")),
		Recalled: text(rt, "recalled"), CreatedAt: instant(rt), UpdatedAt: instant(rt), Deadline: instant(rt),
		TraceParent: text(rt, "trace"), TraceState: text(rt, "trace state"),
	}
	for range rapid.IntRange(0, 3).Draw(rt, "signals") {
		id := rapid.String().Draw(rt, "signal") // a signal is known by its id
		in.Signals = append(in.Signals, saga.SignalRecord{ID: id, Type: "test", Data: fmt.Appendf(nil, "%d", len(id))})
	}
	grow(rt, &in)
	return in
}

// grow changes some steps and adds some, as decisions do: none goes away.
func grow(rt *rapid.T, in *saga.Instance) {
	old := in.Steps
	in.Steps = nil
	for _, step := range old {
		if rapid.Bool().Draw(rt, "changes") {
			step = record(rt, step)
		}
		in.Steps = append(in.Steps, step)
	}
	for range rapid.IntRange(0, 3).Draw(rt, "new steps") {
		in.Steps = append(in.Steps, record(rt, saga.StepRecord{}))
	}
}

func record(rt *rapid.T, old saga.StepRecord) saga.StepRecord {
	r := saga.StepRecord{
		Name: text(rt, "name"), Kind: text(rt, "kind"), Status: rapid.SampledFrom([]saga.StepStatus{saga.StepRunning, saga.StepDone, saga.StepCompensating}).Draw(rt, "status"),
		Round: rapid.IntRange(0, 300).Draw(rt, "round"), UndoRound: rapid.IntRange(0, 2).Draw(rt, "undo round"), Done: rapid.IntRange(0, 9).Draw(rt, "order"),
		Code: events.Code(text(rt, "code")), Choice: rapid.IntRange(-1, 3).Draw(rt, "choice"), Origin: text(rt, "origin"), Do: callOf(rt), Undo: callOf(rt),
	}
	for range old.Items { // as many, perhaps with other contents
		r.Items = append(r.Items, json.RawMessage(rapid.SampledFrom([]string{`1`, `{"a":"b"}`, `null`}).Draw(rt, "item")))
	}
	for range rapid.IntRange(0, 2).Draw(rt, "new items") {
		r.Items = append(r.Items, json.RawMessage(`"new"`))
	}
	r.Turns = append(r.Turns, old.Turns...)
	for range rapid.IntRange(0, 2).Draw(rt, "new turns") {
		r.Turns = append(r.Turns, text(rt, "turn"))
	}
	return r
}

func callOf(rt *rapid.T) saga.CallRecord {
	return saga.CallRecord{
		Request: raw(rt, "request"), Reply: raw(rt, "reply"), Attempts: rapid.IntRange(0, 99).Draw(rt, "attempts"),
		SentAt: instant(rt), RetryAt: instant(rt), Deadline: instant(rt), Error: text(rt, "error"),
	}
}

func text(rt *rapid.T, label string) string {
	return rapid.SampledFrom([]string{"", "a", "pick[2.0]", "é\x00<&>", tripID, "-" + tripID + "-"}).Draw(rt, label)
}

func raw(rt *rapid.T, label string) json.RawMessage {
	return rapid.SampledFrom([]json.RawMessage{nil, []byte(`{}`), []byte(`{"Sum":1}`), []byte(`"x"`), []byte(`{"Of":"` + tripID + `","By":"` + tripID[1:] + `0"}`), []byte("\"\xff\"")}).Draw(rt, label)
}

func instant(rt *rapid.T) time.Time {
	n := rapid.Int64Range(-1<<40, 1<<40).Draw(rt, "instant")
	if n%3 == 0 {
		return time.Time{}
	}
	return dawn.Add(time.Duration(n) * time.Microsecond)
}

func failure(rt *rapid.T) *saga.Failure {
	if rapid.Bool().Draw(rt, "fine") {
		return nil
	}
	return &saga.Failure{Step: text(rt, "step"), Code: events.Code(text(rt, "code")), Message: text(rt, "message")}
}

// TestHistoryHoldsEverySaga writes a saga down change by change and reads it again.
func TestHistoryHoldsEverySaga(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var read, before saga.Instance
		for n := range rapid.IntRange(1, 5).Draw(rt, "entries") {
			after := saved(rt)
			after.Steps = before.Steps
			grow(rt, &after)
			cause := saga.Cause{Kind: "order", Event: rapid.SampledFrom([]string{"", "1", "é<&>"}).Draw(rt, "event"), Order: &saga.Order{Verb: saga.Skip, By: "eve", Reason: "é", Step: "a"}}
			at := dawn.Add(time.Duration(n) * time.Second)
			entry, err := saga.EncodeEntry(&before, &after, cause, at)
			if err != nil {
				rt.Fatal(err)
			}
			gotAt, gotCause, err := saga.ApplyEntry(&read, entry)
			if err != nil || !gotAt.Equal(at) || string(encode(t, gotCause)) != string(encode(t, cause)) {
				rt.Fatalf("entry %d at %s because of %s: %v", n, gotAt, encode(t, gotCause), err)
			}
			if got, want := encode(t, read), encode(t, after); string(got) != string(want) {
				rt.Fatalf("entry %d leads to\n%s\nwant\n%s", n, got, want)
			}
			before = after
		}
	})
}

// TestIdsTakeLittleOfTheHistory: the saga's own id a byte, others 17, and whatever
// could be taken for one of them is kept as it is.
func TestIdsTakeLittleOfTheHistory(t *testing.T) {
	const other = "1b0793d9-8d7d-8f94-b6e9-d9adab7cb3b0"
	id := func(n int, format string) json.RawMessage {
		return []byte(strings.Repeat(fmt.Sprintf(format, tripID), n))
	}
	entry := func(own string, state, request json.RawMessage) []byte {
		t.Helper()
		in := saga.Instance{
			ID: own, Name: "trip", State: state, CreatedAt: dawn, UpdatedAt: dawn,
			Steps: []saga.StepRecord{{Name: "a", Do: saga.CallRecord{Request: request}, Items: []json.RawMessage{request}}},
		}
		cause := saga.Cause{Kind: "start", Event: other}
		entry, err := saga.EncodeEntry(&saga.Instance{}, &in, cause, dawn)
		if err != nil {
			t.Fatal(err)
		}
		var got saga.Instance
		_, gotCause, err := saga.ApplyEntry(&got, slices.Clone(entry))
		if err != nil || gotCause != cause || got.ID != own || !bytes.Equal(got.State, state) ||
			!bytes.Equal(got.Steps[0].Do.Request, request) || !bytes.Equal(got.Steps[0].Items[0], request) {
			t.Errorf("id %q, state %q and request %q are %q, %q and %q, %v", own, state, request, got.ID, got.State, got.Steps[0].Do.Request, err)
		}
		return entry
	}
	none := len(entry(tripID, nil, nil))
	for name, of := range map[string]struct {
		state, request json.RawMessage
		most           int
	}{
		"its own id":                 {id(1, "%s"), nil, 3},
		"its own id, in a row":       {id(4, "%s"), nil, 6},
		"its own id, between dashes": {id(4, "-%s-"), nil, 14},
		"its own id in a request":    {nil, id(1, `"%s"`), 12},
		"another id":                 {[]byte(other), nil, 19},
		"upper case":                 {[]byte(strings.ToUpper(other)), nil, 38},
		"part of an id":              {[]byte(other[1:]), nil, 37},
		"an id in another's end":     {[]byte(other + other[8:]), nil, 48},
		"half of an id and another":  {[]byte(other[:18] + other), nil, 37},
	} {
		if n := len(entry(tripID, of.state, of.request)) - none; n > of.most {
			t.Errorf("%s takes %d bytes, want at most %d", name, n, of.most)
		}
	}
	for _, own := range []string{tripID, "", "1", "00000000-0000-0000-0000-000000000000", strings.ToUpper(tripID)} {
		for _, value := range []string{own, "\xff", "\xfe", "\xfe" + tripID, tripID + "\xff", "é" + own + other} {
			entry(own, []byte(value), nil)
			entry(own, nil, []byte(value))
		}
	}
	for name, broken := range map[string][]byte{
		"an id that is cut":            []byte("\x02\x00\x02\x00\x00\x02\x02a\xfe"),
		"its own id before it is told": []byte("\x02\x00\x02\x00\x00\x02\x01\xff"),
	} {
		if _, _, err := saga.ApplyEntry(&saga.Instance{}, broken); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}

// FuzzHistory reads entries that somebody has tampered with: it may refuse them,
// but what it takes in can be written down again.
func FuzzHistory(f *testing.F) {
	s := saga.Instance{
		ID: "018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f", Name: "trip", Version: 1, Status: saga.Running, State: []byte(`{}`), CreatedAt: dawn, UpdatedAt: dawn,
		Failure: &saga.Failure{Code: "full"}, Signals: []saga.SignalRecord{{ID: "1", Type: "t"}},
		Steps: []saga.StepRecord{
			{Name: "alpha", Status: saga.StepDone, Do: saga.CallRecord{Request: []byte(`{}`), RetryAt: dawn}, Done: 1, Round: 2},
			{Name: "each", Kind: "for-each", Items: []json.RawMessage{[]byte(`1`)}, Choice: -1},
			{Name: "way", Kind: "decide", Turns: []string{"left"}},
			{Name: "ids", Do: saga.CallRecord{Request: []byte(`{"Of":"` + tripID + `"}`), Reply: []byte(`"1b0793d9-8d7d-8f94-b6e9-d9adab7cb3b0"`)}},
		},
	}
	whole := saga.WholeEntry(s)
	next := s
	next.Status = saga.Completed
	change, err := saga.EncodeEntry(&s, &next, saga.Cause{Kind: "reply", Event: "e"}, dawn)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, change)
	f.Add(whole, []byte{})
	f.Add(whole[:len(whole)/2], change)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var in saga.Instance
		for _, entry := range [][]byte{first, second} {
			if _, _, err := saga.ApplyEntry(&in, entry); err != nil {
				return
			}
		}
		entry, err := saga.EncodeEntry(&saga.Instance{}, &in, saga.Cause{Kind: "fuzz"}, dawn)
		if err != nil {
			if errors.As(err, new(*json.MarshalerError)) {
				return // what it holds was never JSON
			}
			t.Fatal(err)
		}
		var again saga.Instance
		if _, _, err := saga.ApplyEntry(&again, entry); err != nil {
			t.Fatalf("what was read cannot be written and read again: %v\n%+v", err, in)
		}
	})
}

// TestHistoryThatWasTamperedWithIsFoundOut changes each byte of each entry, and
// takes entries out and puts some in.
func TestHistoryThatWasTamperedWithIsFoundOut(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := ids(1)[0]
	b.process(startOf(t, id))
	b.advance(id, "alpha", "beta", "gamma", "delta")
	reader := saga.NewReader(b.pool)
	check := func(what string) {
		t.Helper()
		if _, err := reader.History(t.Context(), id); !errors.Is(err, saga.ErrTampered) {
			t.Errorf("%s: History() = %v", what, err)
		}
	}
	if history, err := reader.History(t.Context(), id); err != nil || len(history) != 5 {
		t.Fatalf("%d entries, %v", len(history), err)
	}
	b.exec("create table kept as select * from saga_log")
	restore := func() { b.exec("delete from saga_log"); b.exec("insert into saga_log select * from kept") }
	// The time of an entry is in its first bytes, where any value can be read.
	for seq := range 5 {
		b.exec("update saga_log set entry = set_byte(entry, 2, (get_byte(entry, 2) # 1)) where saga_id = $1 and seq = $2", id, seq+1)
		check("another byte")
		restore()
	}
	b.exec("delete from saga_log where saga_id = $1 and seq = 5", id)
	check("the last entry is gone")
	restore()
	b.exec("insert into saga_log (saga_id, seq, day, entry) select saga_id, 6, day, entry from saga_log where saga_id = $1 and seq = 5", id)
	check("one entry more")
	restore()
	b.exec("update saga_log set seq = seq + 10 where saga_id = $1 and seq in (4, 5)", id)
	b.exec("update saga_log set seq = 19 - seq where saga_id = $1 and seq > 10", id)
	check("two entries have changed places")
	restore()
	b.exec("update saga set hash = sha256(hash) where id = $1", id)
	check("another hash")
}

// TestHistoryIsReadFromItsSnapshots plays a saga with hundreds of entries.
func TestHistoryIsReadFromItsSnapshots(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := ids(1)[0]
	b.process(startOf(t, id))
	for range 150 {
		b.exec("update saga_live set due_at = clock_timestamp() where saga_id = $1", id)
		if _, err := b.engine.Fire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := one[int64](b, "select snapshot from saga where id = $1", id); n < 100 {
		t.Errorf("the last snapshot is entry %d of 151", n)
	}
	fresh := b.another() // it remembers nothing
	if err := b.try(t.Context(), fresh, ok(t, id, "alpha"), ok(t, id, "beta")); err != nil {
		t.Fatal(err)
	}
	in, revision := b.stored(id)
	if revision != 153 || in.Status != saga.Running || len(in.Steps) != 3 {
		t.Errorf("saga is %s at %d: %+v", in.Status, revision, in.Steps)
	}
	history, err := saga.NewReader(b.pool).History(t.Context(), id)
	if err != nil || len(history) != 153 {
		t.Errorf("%d entries, %v", len(history), err)
	}
	export, err := saga.NewReader(b.pool).Export(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	states, err := saga.Import(export)
	if err != nil || len(states) != 153 || string(encode(t, states[152])) != string(encode(t, export.Saga)) {
		t.Errorf("%d states, %v", len(states), err)
	}
}

package saga_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/saga"
)

// roundTrip is a journey of two versions. The newer one has other names for its
// nodes and a step more.
func roundTrip() (old, newer saga.Definition[journey]) {
	old = through(hop("a"), stops(2, hopAt("arrive")), hop("end"))
	first, reach := hop("a"), hopAt("arrive")
	first.Name, reach.Name = "first", "reach"
	newer = through(first, saga.ForEach[journey, string]{Name: "halts", Limit: 2, Items: func(s journey) []string { return s.Days }, Body: reach}, hop("extra"), hop("end"))
	newer.Version = 2
	newer.Takes = []saga.Takeover[journey]{saga.From(1, func(old journey) journey {
		old.Mode = "taken over"
		return old
	}, map[string]string{"a": "first", "stops": "halts", "arrive": "reach"})}
	return old, newer
}

func TestTakeoverGoesOnUnderOtherNames(t *testing.T) {
	t.Parallel()
	old, newer := roundTrip()
	b := newBench(t, old)
	id := b.journeyOf("x", "y")
	b.process(replyTo(t, id, "a", []byte(`{"Text":"a"}`), nil))
	b.process(replyTo(t, id, "arrive[0]", []byte(`{"Text":"x"}`), nil))
	b.engine = b.another(newer)
	if err := b.engine.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.exec("delete from outbox")
	// The commands that are out keep their ids.
	b.process(replyTo(t, id, "arrive[1]", []byte(`{"Text":"y"}`), nil))
	b.want(id, saga.Running, 5) // a takeover and a reply
	b.wantSent(id, "extra.do")
	b.exec("delete from outbox")
	b.process(no(t, id, "extra"))
	var undone []string
	for _, l := range b.outbox() {
		undone = append(undone, l.Event.Undoes)
		if l.Event.Type != "test.arrive.undo.v1" {
			t.Errorf("sent %s", l.Event.Type)
		}
	}
	slices.Sort(undone)
	want := []string{saga.DoID(id, "arrive[0]"), saga.DoID(id, "arrive[1]")}
	slices.Sort(want)
	if !slices.Equal(undone, want) {
		t.Errorf("undone %v, want %v", undone, want)
	}
	b.process(replyTo(t, id, "-arrive[1]", nil, nil), replyTo(t, id, "-arrive[0]", nil, nil))
	b.process(replyTo(t, id, "-a", nil, nil))
	in, _ := b.stored(id)
	if in.Status != saga.Compensated || in.Version != 2 || !strings.Contains(string(in.State), "taken over") || in.Steps[0].Name != "first" || in.Steps[0].Origin != "a" {
		t.Errorf("saga %+v", in)
	}
	history, err := saga.NewReader(b.pool).History(t.Context(), id)
	if err != nil || !slices.ContainsFunc(history, func(e saga.Entry) bool { return e.Cause.Kind == "takeover" }) {
		t.Errorf("history %+v, %v", history, err)
	}
}

func TestTakeoverRenamesWhatASagaIsStuckWith(t *testing.T) {
	t.Parallel()
	old, newer := roundTrip()
	b := newBench(t, old)
	id := b.journeyOf("x")
	b.process(replyTo(t, id, "a", []byte(`{"Text":"a"}`), nil), replyTo(t, id, "arrive[0]", []byte(`{"Text":"x"}`), nil), no(t, id, "end"))
	b.process(no(t, id, "-arrive[0]"))
	b.engine = b.another(newer)
	b.exec("update saga_live set due_at = clock_timestamp() where saga_id = $1", id)
	if _, err := b.engine.Fire(t.Context()); err != nil {
		t.Fatal(err)
	}
	in, _ := b.stored(id)
	if in.Version != 2 || in.Status != saga.Stuck || in.Trouble == nil || in.Trouble.Step != "reach[0]" || in.Trouble.Code != "full" {
		t.Errorf("saga %s, version %d, trouble %+v", in.Status, in.Version, in.Trouble)
	}
}

func TestTakeoverOfSagasThatDoNotFitIsRefused(t *testing.T) {
	t.Parallel()
	old, newer := roundTrip()
	newer.Takes = []saga.Takeover[journey]{saga.From(1, func(old journey) journey { return old }, map[string]string{"a": "first"})}
	b := newBench(t, old)
	id := b.journeyOf("x")
	b.process(replyTo(t, id, "a", []byte(`{"Text":"a"}`), nil))
	b.engine = b.another(newer)
	if err := b.engine.Check(t.Context()); err == nil || !strings.Contains(err.Error(), `it has come to "stops"`) {
		t.Errorf("Check() = %v", err)
	}
}

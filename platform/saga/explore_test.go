package saga_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

var seedFlag = flag.Int64("seed", -1, "explore this seed alone, and print what happens")

// TestExploreKeepsThePromises plays many random sagas in a world that duplicates,
// drops, delays and reorders messages, with an engine that crashes between its
// decision and its commit, and participants that refuse, are slow or keep silent.
func TestExploreKeepsThePromises(t *testing.T) {
	programs := make([]*saga.Program, 0, 3)
	for _, d := range []saga.Definition[trip]{
		standard(),
		define(alpha(), beta(), gamma(), pivot(delta())),
		define(alpha(), beta(), gamma(), undoableDelta()),
	} {
		p, err := d.Compile()
		if err != nil {
			t.Fatal(err)
		}
		programs = append(programs, p)
	}
	if *seedFlag >= 0 {
		w := newWorld(programs, uint64(*seedFlag))
		w.trace = func(format string, args ...any) { t.Logf(format, args...) }
		if err := w.run(); err != nil {
			t.Errorf("seed %d: %v", *seedFlag, err)
		}
		return
	}
	ends, failed := make(map[saga.Status]int), 0
	for seed := range uint64(4000) {
		w := newWorld(programs, seed)
		if err := w.run(); err != nil {
			t.Errorf("seed %d: %v; replay: go test ./saga -run TestExplore -v -seed %d", seed, err, seed)
			if failed++; failed == 5 {
				t.FailNow()
			}
		}
		ends[w.saga.Status]++
	}
	t.Logf("ends: %v", ends)
	for _, status := range []saga.Status{saga.Completed, saga.Compensated, saga.Stuck} {
		if ends[status] < 200 {
			t.Errorf("only %d sagas ended %s: the exploration is lopsided", ends[status], status)
		}
	}
}

func undoableDelta() saga.Step[trip] {
	undoD := events.NewCommand[refund, events.None]("test.delta.undo.v1")
	s := delta()
	s.Undo = undo("delta", doD, undoD)
	return s
}

var legs = []string{"alpha", "beta", "gamma", "delta"}

// temper is how a participant treats a command.
type temper int

const (
	obeys temper = iota
	refuses
	deaf // never gets it
	mute // obeys, but no reply ever arrives
)

// world is one saga, its engine, its participants and the network between.
type world struct {
	rng     *rand.Rand
	trace   func(format string, args ...any)
	program *saga.Program
	pivot   int // the step that decides; 4 when none does
	saga    saga.Instance
	now     time.Time
	flight  []parcel

	do, undo map[string]temper
	inbox    map[string]string // command id to how it ended: replied, rejected or revoked
	effects  []string          // in order: "alpha", or "-alpha" when undone

	drop, copies, crash float64
}

// parcel is a message in flight: a command or its reply.
type parcel struct {
	command *saga.Effect
	reply   *saga.ReplyInput
}

func newWorld(programs []*saga.Program, seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	shape := rng.IntN(len(programs))
	w := &world{
		rng: rng, trace: func(string, ...any) {}, program: programs[shape], pivot: []int{2, 3, 4}[shape],
		now: dawn, do: make(map[string]temper), undo: make(map[string]temper), inbox: make(map[string]string),
		drop: rng.Float64() * 0.4, copies: rng.Float64() * 0.4, crash: rng.Float64() * 0.3,
	}
	for _, leg := range legs {
		if rng.IntN(6) == 0 {
			w.do[leg] = temper(1 + rng.IntN(3))
		}
		if rng.IntN(12) == 0 {
			w.undo[leg] = temper(1 + rng.IntN(3))
		}
	}
	return w
}

// hopeless reports whether somebody whose answer is needed never gives a good one.
func (w *world) hopeless() bool {
	for i, leg := range legs {
		do := w.do[leg]
		if i == w.pivot && (do == deaf || do == mute) || i > w.pivot && do != obeys || w.undo[leg] != obeys {
			return true
		}
	}
	return false
}

func (w *world) run() error {
	w.trace("do %v, undo %v, pivot %d", w.do, w.undo, w.pivot)
	start := saga.Input{Start: &saga.StartInput{ID: tripID, Request: []byte(`{}`)}}
	for w.saga.Status == "" { // the broker has it, so it comes until it is committed
		if err := w.decide(start); err != nil {
			return err
		}
	}
	for turn := 0; !w.saga.Status.Final(); turn++ {
		if turn == 20_000 {
			return fmt.Errorf("it never ends: %s after %v", w.saga.Status, w.effects)
		}
		if w.saga.Status == saga.Stuck && w.hopeless() && turn > 400 && w.rng.IntN(50) == 0 {
			break
		}
		if err := w.turn(); err != nil {
			return err
		}
		if w.rng.IntN(40) == 0 {
			if err := w.decide(start); err != nil {
				return err
			}
		}
	}
	for len(w.flight) > 0 { // what is still under way must change nothing
		if err := w.deliver(w.rng.IntN(len(w.flight))); err != nil {
			return err
		}
	}
	return w.judge()
}

// turn delivers, drops or copies a message, or lets time pass.
func (w *world) turn() error {
	if len(w.flight) == 0 || w.rng.IntN(4) == 0 {
		w.now = w.now.Add(time.Duration(w.rng.Int64N(int64(8 * time.Second))))
		if w.rng.IntN(20) == 0 {
			w.now = w.now.Add(time.Duration(w.rng.Int64N(int64(4 * time.Minute))))
		}
		return w.decide(saga.Input{Tick: true})
	}
	i := w.rng.IntN(len(w.flight))
	switch chance := w.rng.Float64(); {
	case chance < w.drop:
		w.trace("dropped %s", w.flight[i])
		w.flight = slices.Delete(w.flight, i, i+1)
		return nil
	case chance < w.drop+w.copies && len(w.flight) < 30:
		w.flight = append(w.flight, w.flight[i])
	}
	return w.deliver(i)
}

func (w *world) deliver(i int) error {
	p := w.flight[i]
	w.flight = slices.Delete(w.flight, i, i+1)
	if p.reply == nil {
		return w.obey(p.command)
	}
	return w.decide(saga.Input{Reply: p.reply})
}

// decide is one batch of the engine. A crash loses the decision with everything
// it called for; the broker delivers the input again.
func (w *world) decide(input saga.Input) error {
	next, effects, verdict := w.program.Decide(w.saga, input, w.now)
	if w.rng.Float64() < w.crash {
		w.trace("crash")
		if input.Reply != nil {
			w.flight = append(w.flight, parcel{reply: input.Reply})
		}
		return nil
	}
	if w.saga.Status.Final() && (verdict != saga.Ignored || next.Status != w.saga.Status || len(effects) > 0) {
		return fmt.Errorf("%s after it ended %s", verdict, w.saga.Status)
	}
	if verdict == saga.Applied {
		w.trace("%s %s: %s, sends %d", w.now.Sub(dawn), inputName(input), next.Status, len(effects))
	}
	w.saga = next
	for i := range effects {
		w.flight = append(w.flight, parcel{command: &effects[i]})
	}
	return nil
}

// obey is a participant with an inbox, as in platform/consumer: a command that
// was handled is answered again, and an undo that comes first revokes.
func (w *world) obey(command *saga.Effect) error {
	leg, undoing := "", command.Undoes != ""
	for _, l := range legs {
		if command.ID == saga.DoID(tripID, l) || command.ID == saga.UndoID(tripID, l) {
			leg = l
		}
	}
	mood := w.do[leg]
	if undoing {
		mood = w.undo[leg]
	}
	if mood == deaf {
		return nil
	}
	if _, seen := w.inbox[command.ID]; !seen {
		end := "replied"
		switch {
		case mood == refuses:
			end = "rejected"
		case !undoing:
			w.effects = append(w.effects, leg)
			w.trace("%s happens", leg)
		case w.inbox[command.Undoes] == "replied":
			w.effects = append(w.effects, "-"+leg)
			w.trace("%s is undone", leg)
		case w.inbox[command.Undoes] == "":
			w.inbox[command.Undoes] = "revoked"
			w.trace("%s is revoked", leg)
		}
		w.inbox[command.ID] = end
	}
	if mood == mute {
		return nil
	}
	reply := &saga.ReplyInput{CommandID: command.ID}
	if end := w.inbox[command.ID]; end != "replied" {
		reply.Rejection = &events.Rejection{Code: events.Code(end)}
	}
	w.flight = append(w.flight, parcel{reply: reply})
	return nil
}

// judge compares how the saga ended with what really happened.
func (w *world) judge() error {
	story := strings.Join(w.effects, " ")
	var done, undone []string
	for _, effect := range w.effects {
		if leg, back := strings.CutPrefix(effect, "-"); back {
			undone = append(undone, leg)
		} else {
			done = append(done, effect)
		}
	}
	for _, list := range [][]string{done, undone} {
		sorted := slices.Sorted(slices.Values(list))
		if len(slices.Compact(sorted)) != len(list) {
			return fmt.Errorf("%s: something happened twice: %s", w.saga.Status, story)
		}
	}
	if !slices.Equal(done, legs[:min(len(done), 4)]) {
		return fmt.Errorf("%s: steps out of order: %s", w.saga.Status, story)
	}
	slices.Reverse(undone)
	switch {
	case w.saga.Status == saga.Completed && !slices.Equal(w.effects, legs):
		return fmt.Errorf("completed, but what happened is: %s", story)
	case w.saga.Status == saga.Compensated && !slices.Equal(done, undone):
		return fmt.Errorf("compensated, but what happened is: %s", story)
	case w.saga.Status == saga.Stuck && len(undone) > 0 && !slices.Equal(done[len(done)-len(undone):], undone):
		return fmt.Errorf("stuck, and not undone in reverse: %s", story)
	case !w.saga.Status.Final() && w.saga.Status != saga.Stuck:
		return fmt.Errorf("left %s: %s", w.saga.Status, story)
	case w.saga.Status == saga.Stuck && w.saga.Trouble == nil:
		return errors.New("stuck without saying why")
	}
	return nil
}

func (p parcel) String() string {
	if p.reply != nil {
		return inputName(saga.Input{Reply: p.reply})
	}
	return fmt.Sprintf("%s #%d", p.command.Type, p.command.Attempt)
}

func inputName(input saga.Input) string {
	if input.Tick {
		return "tick"
	}
	if input.Start != nil {
		return "start"
	}
	for _, leg := range legs {
		kind := "reply"
		if input.Reply.Rejection != nil {
			kind = "rejection"
		}
		switch input.Reply.CommandID {
		case saga.DoID(tripID, leg):
			return kind + " of " + leg
		case saga.UndoID(tripID, leg):
			return kind + " of -" + leg
		}
	}
	return "reply of nothing"
}

package sagatest

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// dawn is when every simulated world begins.
var dawn = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// world is everything around some sagas: clients, two engines on one database, a
// relay, the broker, participants and operators. It has one thread and its own
// time, so a seed is all it takes to see the same again.
type world struct {
	setup   *setup
	seed    uint64
	rng     *rand.Rand
	weather weather
	now     time.Time
	agenda  agenda
	turns   int
	healed  bool
	visits  int   // of operators
	err     error // the first broken promise
	tracer  func(line string)

	starts    map[string]*saga.Program // by the type of the command
	contracts map[string]saga.Contracts
	commands  map[string]events.Descriptor
	shapes    map[string]*shape // by name of the program

	database  database
	broker    brokerSim
	engines   [2]engine
	ledger    *ledger
	inbox     map[string]receipt
	moods     map[string]fault // what a participant's step suffers from, or faults for nothing
	unwinding *unwinding       // nil: nothing is to be unwound
	accepted  []string         // sagas whose start a client was told
	tx        pgx.Tx           // of local steps; nil: they are not run
}

// newWorld returns a world in which nothing has happened.
func newWorld(s *setup, seed uint64, w weather) *world {
	out := &world{
		setup: s, seed: seed, weather: w, now: dawn, rng: source(seed, 2), tracer: nil,
		starts: make(map[string]*saga.Program), contracts: make(map[string]saga.Contracts), commands: make(map[string]events.Descriptor),
		shapes: make(map[string]*shape), ledger: newLedger(), inbox: make(map[string]receipt), moods: make(map[string]fault),
	}
	for _, p := range s.programs {
		out.starts[p.StartType] = p
		out.shapes[p.Name] = shapeOf(p)
		for _, c := range p.Contracts() {
			out.contracts[p.Name+"/"+c.Node] = c
			out.commands[c.Do.Type] = c.Do
			if c.Undo != nil {
				out.commands[c.Undo.Type] = *c.Undo
			}
		}
	}
	out.database.rows, out.database.unsent = make(map[string]*row), make(map[int]string)
	out.broker.window = make(map[string]time.Time)
	out.broker.last = make(map[string]time.Time)
	spread := time.Duration(float64(2*time.Second) * w.chance[skew])
	for i := range out.engines {
		out.engines[i].skew = time.Duration((out.rng.Float64() - 0.5) * float64(spread)).Truncate(time.Microsecond)
	}
	return out
}

// agenda is what is to happen, by time and then by when it was planned.
type agenda struct {
	items []appointment
	count int
}

type appointment struct {
	at    time.Time
	order int
	run   func()
}

func (a *agenda) Len() int { return len(a.items) }
func (a *agenda) Less(i, j int) bool {
	return cmp.Or(a.items[i].at.Compare(a.items[j].at), cmp.Compare(a.items[i].order, a.items[j].order)) < 0
}
func (a *agenda) Swap(i, j int) { a.items[i], a.items[j] = a.items[j], a.items[i] }
func (a *agenda) Push(x any)    { a.items = append(a.items, x.(appointment)) }
func (a *agenda) Pop() any {
	last := a.items[len(a.items)-1]
	a.items = a.items[:len(a.items)-1]
	return last
}

// after plans something.
func (w *world) after(d time.Duration, run func()) { w.at(w.now.Add(d), run) }

func (w *world) at(at time.Time, run func()) {
	w.agenda.count++
	heap.Push(&w.agenda, appointment{at, w.agenda.count, run})
}

// happens draws whether a fault happens. It draws for absent ones as well, so that
// a run without a fault is otherwise much the same.
func (w *world) happens(f fault) bool {
	return w.rng.Float64() < w.weather.chance[f] && !w.healed
}

// while is a short time, as long as a network or a database takes.
func (w *world) while() time.Duration {
	return time.Millisecond + time.Duration(w.rng.Int64N(int64(10*time.Millisecond))).Truncate(time.Microsecond)
}

// long is a time up to the latest.
func (w *world) long() time.Duration {
	return time.Duration(w.rng.Int64N(int64(max(w.weather.latest, time.Millisecond)))).Truncate(time.Microsecond)
}

// broken ends the run with a broken promise.
func (w *world) broken(err error) {
	if w.err == nil && err != nil {
		w.err = err
	}
}

func (w *world) tracef(format string, args ...any) {
	if w.tracer != nil {
		w.tracer(fmt.Sprintf("%12s  ", w.now.Sub(dawn).Round(time.Microsecond)) + fmt.Sprintf(format, args...))
	}
}

// patience bounds how much happens after all faults have ended.
const patience = 20_000

// play runs the world until every saga has ended, and judges it.
func (w *world) play() error {
	disconnect, err := w.connect()
	if err != nil {
		return err
	}
	defer disconnect()
	w.clients()
	for w.err == nil {
		if !w.healed && w.turns >= w.weather.steps {
			w.heal()
		}
		if w.agenda.Len() == 0 {
			if !w.healed {
				w.heal()
				continue
			}
			break
		}
		next := heap.Pop(&w.agenda).(appointment)
		if next.at.After(w.now) {
			w.now = next.at
		}
		next.run()
		if w.turns++; w.turns > w.weather.steps+patience {
			w.broken(errors.New("it never ends: " + w.standing()))
		}
	}
	if w.err == nil {
		w.broken(w.judge())
	}
	return w.err
}

// heal ends all faults: from now on everything must come to an end.
func (w *world) heal() {
	w.tracef("-- from here on nothing fails any more")
	w.healed = true
	w.after(visitEvery, w.visit)
}

// visitEvery is how often operators look for sagas that need them, and visitsMax
// how often they do before they give up.
const (
	visitEvery = 10 * time.Minute
	visitsMax  = 300
)

// visit has operators mend what waits for them. They come again while anything
// goes on.
func (w *world) visit() {
	w.visits++
	for _, id := range w.database.order {
		r := w.database.rows[id]
		switch {
		case r.saga.Paused:
			w.order(id, saga.Resume)
		case r.saga.Status == saga.Stuck:
			for _, record := range r.saga.Steps {
				if c, ok := w.contracts[r.saga.Name+"/"+nodeName(record.Name)]; ok && c.Kind == "await" && record.Status == saga.StepRunning {
					w.signal(id, c, false)
				}
			}
			w.order(id, saga.RetryNow)
		}
	}
	if w.agenda.Len() > 0 && w.visits < visitsMax {
		w.after(visitEvery, w.visit)
	}
}

// standing tells how the sagas stand that have not ended.
func (w *world) standing() string {
	var text strings.Builder
	for _, id := range w.database.order {
		in := &w.database.rows[id].saga
		if in.Status.Final() {
			continue
		}
		fmt.Fprintf(&text, "saga %s is %s", w.name(id), in.Status)
		if in.Trouble != nil {
			fmt.Fprintf(&text, " (%s: %s %s)", in.Trouble.Step, in.Trouble.Code, in.Trouble.Message)
		}
		for _, r := range in.Steps {
			fmt.Fprintf(&text, " %s=%s", r.Name, r.Status)
		}
		text.WriteString("; ")
	}
	return strings.TrimSuffix(text.String(), "; ")
}

// name returns a short name of a saga: S1, S2.
func (w *world) name(id string) string {
	for i, other := range w.accepted {
		if other == id {
			return fmt.Sprintf("S%d", i+1)
		}
	}
	return "child " + id[:min(8, len(id))]
}

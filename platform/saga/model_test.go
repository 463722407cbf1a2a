package saga_test

import (
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/countermand/countermand/platform/saga"
)

// TestEngineFollowsTheModel feeds three engines, each of which remembers sagas as it
// last saw them, random batches, timers and orders of operators, and compares what is
// stored, sent, told and written in the histories with a model. The third engine has
// mishaps: its questions to the database or their answers are lost, or one of the
// others is faster between its reading and its writing.
func TestEngineFollowsTheModel(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue { // each takes a quarter of a second
		if err := checks.Value.Set("15"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = checks.Value.Set(checks.DefValue) }()
	}
	// A clock of its own in front of the database's.
	params := maps.Clone(saga.SessionParams())
	params["search_path"] = "public, pg_catalog"
	b := newBenchOn(t, database(t, params), guided())
	b.exec("create table ahead (of_time interval not null)")
	b.exec("insert into ahead values (interval '0')")
	b.exec(`create function public.clock_timestamp() returns timestamptz language sql volatile
		as 'select pg_catalog.clock_timestamp() + of_time from public.ahead'`)
	trouble := &mishap{}
	pool := b.wire(trouble)
	unlucky := func() *saga.Engine {
		e, err := saga.NewEngine(pool, saga.EngineConfig{Logger: slog.New(slog.DiscardHandler)}, guided())
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	rapid.Check(t, func(rt *rapid.T) {
		b.exec("truncate saga, saga_log, saga_live, outbox")
		b.exec("update ahead set of_time = interval '0'")
		a := &arena{rt: rt, b: b, trouble: trouble, unlucky: unlucky, now: time.Minute, began: time.Now(), ids: ids(3), models: make(map[string]*model)}
		a.engines = []*saga.Engine{b.another(guided()), b.another(guided()), unlucky()}
		for _, id := range a.ids {
			a.models[id] = &model{id: id}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"batch":   func(rt *rapid.T) { a.play(rt, a.batch(rt)) },
			"order":   func(rt *rapid.T) { a.play(rt, a.order(rt)) },
			"order 2": func(rt *rapid.T) { a.play(rt, a.order(rt)) }, // there are many of them
			"signal":  func(rt *rapid.T) { a.play(rt, a.signal(rt)) },
			"time": func(rt *rapid.T) {
				// No sum of these comes close before a time at which something is due.
				d := rapid.SampledFrom([]time.Duration{7 * time.Minute, 61 * time.Minute}).Draw(rt, "passes")
				a.now += d
				b.exec("update ahead set of_time = of_time + $1", d)
				for _, e := range a.engines {
					e.ForgetClock()
				}
				a.play(rt, a.timers())
			},
			"bulk":    a.bulk,
			"preview": a.preview,
			"restart": func(rt *rapid.T) {
				a.engines[rapid.IntRange(0, 1).Draw(rt, "engine")] = b.another(guided())
				a.engines[2] = unlucky()
			},
			"": func(rt *rapid.T) {
				sent := a.sent()
				for _, id := range a.ids {
					a.compare(rt, a.models[id], sent[id])
				}
			},
		})
	})
}

// arena is the sagas of one check, and the models that they should follow.
type arena struct {
	rt      *rapid.T
	b       *bench
	trouble *mishap
	unlucky func() *saga.Engine
	engines []*saga.Engine
	now     time.Duration // since the check began, but for the time that it takes
	began   time.Time
	ids     []string
	models  map[string]*model
	count   int
	wrong   string // what was found where the test cannot be ended
}

// act is something that an engine does. It marks the write by which it is done, tells
// the model, and is done again when its answer is lost unless the engine sees to that.
type act struct {
	mark  string
	do    func(e *saga.Engine) (lost bool)
	model func()
	batch bool // one at a time
	again bool // the engine sees to it
}

func (a *arena) wrongf(format string, args ...any) {
	if a.wrong == "" {
		a.wrong = fmt.Sprintf(format, args...)
	}
}

// play has an engine act, with a mishap on the way if it is the third.
func (a *arena) play(rt *rapid.T, act act) {
	which := rapid.IntRange(0, 3).Draw(rt, "engine")
	if which < 2 {
		act.do(a.engines[which])
		act.model()
	} else {
		a.mishap(rt, act)
	}
	if a.wrong != "" {
		rt.Fatal(a.wrong)
	}
}

func (a *arena) mishap(rt *rapid.T, act act) {
	e := a.engines[2]
	kind := rapid.SampledFrom([]string{"answer lost", "question lost", "overtaken", "overtaken by an order"}).Draw(rt, "mishap")
	var meanwhile func()
	overtaken := strings.HasPrefix(kind, "overtaken")
	if overtaken {
		faster := a.order(rt)
		switch {
		case kind == "overtaken by an order":
		case act.batch:
			faster = a.timers()
		default:
			faster = a.batch(rt)
		}
		by := a.engines[rapid.IntRange(0, 1).Draw(rt, "faster")]
		meanwhile = func() {
			faster.do(by)
			faster.model()
		}
	}
	a.trouble.arm(act.mark, 1, kind == "question lost", meanwhile)
	lost := act.do(e)
	missed := a.trouble.none() && !overtaken && !act.again
	if lost != missed {
		a.wrongf("the engine says that an answer was lost: %v, and it was: %v (%s)", lost, missed, kind)
	}
	if missed {
		if kind == "answer lost" {
			act.model()
		}
		if rapid.Bool().Draw(rt, "crash") {
			a.engines[2] = a.unlucky()
		}
		act.do(a.engines[rapid.IntRange(0, 2).Draw(rt, "rescue")])
	}
	act.model()
}

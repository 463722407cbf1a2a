package saga_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/platform/saga/sagatest"
)

// journey is the state of the sagas of these tests.
type journey struct {
	Notes []string `json:",omitempty"`
	Days  []string `json:",omitempty"`
	Mode  string   `json:",omitempty"`
}

type (
	word1 struct{ Text string }
	stop  = saga.Each[journey, string]
)

var (
	travel  = events.NewCommand[journey, []string]("test.journey.travel.v1")
	decided = events.NewFact[word1]("test.journey.decided.v1")
	elapsed = events.NewFact[word1]("test.journey.elapsed.v1")
)

// hop is a step that notes its reply and can be undone.
func hop(name string, change ...func(*saga.Step[journey])) saga.Step[journey] {
	return hopOf(name, func(s *journey) *journey { return s }, func(journey) string { return name }, change...)
}

// hopAt is a step for one stop of a for-each.
func hopAt(name string) saga.Step[stop] {
	return hopOf(name, func(s *stop) *journey { return &s.State }, func(s stop) string { return name + " " + s.Item })
}

func hopOf[S any](name string, of func(*S) *journey, text func(S) string, change ...func(*saga.Step[S])) saga.Step[S] {
	do := events.NewCommand[word1, word1]("test." + name + ".do.v1")
	s := saga.Step[S]{
		Name: name,
		Do: saga.Call(do, func(s S) word1 { return word1{text(s)} }, func(s *S, w word1) {
			if w.Text != "" {
				j := of(s)
				j.Notes = append(j.Notes, w.Text)
			}
		}),
		Undo: saga.Undo(do, events.NewCommand[word1, events.None]("test."+name+".undo.v1"), func(_ S, sent saga.Sent[word1, word1]) word1 {
			if sent.InDoubt {
				return word1{sent.Request.Text + "?"}
			}
			return word1{sent.Reply.Text}
		}),
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

func pivotal(s *saga.Step[journey]) { s.Pivot, s.Undo = true, saga.Compensation[journey]{} }
func onward(s *saga.Step[journey])  { s.Undo = saga.Compensation[journey]{} }

func through(flow ...saga.Node[journey]) saga.Definition[journey] {
	return saga.Definition[journey]{
		Name: "journey", Version: 1, Flow: saga.Sequence[journey](flow),
		Start: saga.On(travel, func(_ string, q journey) journey { return q }, func(s journey) []string { return s.Notes }),
	}
}

func stops(limit int, body saga.Node[stop]) saga.Node[journey] {
	return saga.ForEach[journey, string]{Name: "stops", Limit: limit, Items: func(s journey) []string { return s.Days }, Body: body}
}

func noted(text string) word1 { return word1{text} }

// TestNodes compares what each kind of node does, forward and backward, with the
// traces in testdata/nodes.
func TestNodes(t *testing.T) {
	mode := func(want string) func(journey) bool { return func(s journey) bool { return s.Mode == want } }
	parallel := saga.Parallel[journey]{Branches: []saga.Node[journey]{saga.Sequence[journey]{hop("a"), hop("b")}, hop("c")}}
	choice := saga.Choice[journey]{
		Name:  "mode",
		Cases: []saga.Case[journey]{{When: mode("train"), Then: hop("train")}, {When: mode("ship"), Then: hop("ship")}}, Else: hop("walk"),
	}
	await := saga.Await[journey]{
		Name: "decision", Timeout: time.Hour, TimeoutCode: "undecided",
		For: saga.Signal(decided, func(s *journey, w word1) { s.Mode = w.Text }),
	}
	rested := await
	rested.OnTimeout = hop("default")
	decide := saga.Decide[journey]{
		Name: "wander", Options: map[string]saga.Node[journey]{"left": hop("l"), "right": hop("r")},
		Next: func(s journey, turn int) string {
			if turn < len(s.Days) {
				return s.Days[turn]
			}
			return ""
		},
	}
	local := saga.Local[journey]{Name: "book", Do: nothing[journey], Undo: nothing[journey]}
	handled := func(retry bool) saga.Node[journey] {
		return hop("a", func(s *saga.Step[journey]) {
			s.OnReject = map[events.Code]saga.Handler[journey]{"full": {Do: saga.Sequence[journey]{hop("h"), saga.Sleep[journey]{Name: "rest", For: time.Minute}}, Retry: retry}}
		})
	}
	child := saga.Child[journey]{Name: "trip", Start: saga.Call(begin, func(journey) booking { return booking{Trip: "x"} }, nil)}
	unheard := child
	unheard.Retry = saga.Retry{Min: time.Minute, Attempts: 2}
	twice := func(s *saga.Step[journey]) { s.Retry = saga.Retry{Attempts: 2} }
	for name, test := range map[string]struct {
		flow saga.Definition[journey]
		play func(s *sagatest.Script)
	}{
		"parallel": {through(parallel, hop("d")), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("c", noted("c")).Reply("a", noted("a")).Reply("b", noted("b")).Reply("d", noted("d"))
		}},
		"step-without-answer-to-its-attempts": {through(hop("a"), hop("b", twice)), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("a", nil).Next().Next().Reply("b", nil).Reply("a", nil)
		}},
		"child-without-answer-to-its-attempts": {through(hop("a"), unheard), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("a", nil).Next().Next().Reply("trip", nil).Reply("a", nil)
		}},
		"parallel-undone": {through(parallel, hop("d")), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("c", noted("c")).Reply("a", noted("a")).Reject("b", "no")
			s.Reply("a", nil).Again().Reply("c", nil)
		}},
		"parallel-undone-while-it-runs": {through(parallel), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("a", noted("a")).Reject("c", "no")
			s.Reply("b", nil).Reply("a", nil) // b was under way, so it is in doubt
		}},
		"parallel-undo-in-turn": {
			through(saga.Parallel[journey]{UndoInTurn: true, Branches: []saga.Node[journey]{hop("a"), saga.Sequence[journey]{hop("b"), hop("c")}, local}}, hop("d", pivotal)),
			func(s *sagatest.Script) {
				s.Start(journey{}).Reply("b", nil).Local("book", nil).Reply("a", nil).Reply("c", nil).Reject("d", "no")
				s.Reply("c", nil).Reply("a", nil).Local("book", nil).Reply("b", nil)
			},
		},
		"parallel-undo-in-turn-with-doubt": {
			through(saga.Parallel[journey]{UndoInTurn: true, Branches: []saga.Node[journey]{hop("a"), hop("b"), local}}),
			func(s *sagatest.Script) {
				s.Start(journey{}).Reply("a", nil).Local("book", nil).Order(saga.Order{Verb: saga.Cancel})
				s.Reply("b", nil).Local("book", nil).Reply("a", nil)
			},
		},
		"parallel-undo-in-turn-when-a-local-step-timed-out": {
			through(saga.Parallel[journey]{UndoInTurn: true, Branches: []saga.Node[journey]{hop("a"), local}}),
			func(s *sagatest.Script) {
				s.Start(journey{}).Reply("a", nil)
				for range 5 {
					s.Fail("book", "table is gone").Next()
				}
				s.Reply("a", nil)
			},
		},
		"parallel-undo-after": {
			through(saga.Parallel[journey]{Branches: []saga.Node[journey]{hop("a", func(s *saga.Step[journey]) { s.UndoAfter = []string{"b"} }), hop("b")}}, hop("c")),
			func(s *sagatest.Script) {
				s.Start(journey{}).Reply("a", nil).Reply("b", nil).Reject("c", "no").Reply("b", nil).Reply("a", nil)
			},
		},
		"choice":      {through(choice), func(s *sagatest.Script) { s.Start(journey{Mode: "ship"}).Reply("ship", noted("ahoy")) }},
		"choice-else": {through(choice), func(s *sagatest.Script) { s.Start(journey{}).Reply("walk", nil) }},
		"choice-nothing": {through(saga.Choice[journey]{Name: "mode", Cases: choice.Cases}, hop("end")), func(s *sagatest.Script) {
			s.Start(journey{Mode: "fly"}).Reply("end", nil)
		}},
		"choice-undone": {through(choice, hop("end")), func(s *sagatest.Script) {
			s.Start(journey{Mode: "train"}).Reply("train", nil).Reject("end", "no").Reply("train", nil)
		}},
		"for-each": {through(stops(2, saga.Sequence[stop]{hopAt("arrive"), hopAt("leave")}), hop("home")), func(s *sagatest.Script) {
			s.Start(journey{Days: []string{"x", "y", "z"}})
			s.Reply("arrive[1]", noted("y")).Reply("leave[1]", nil).Reply("arrive[0]", noted("x")).Reply("arrive[2]", noted("z")).Reply("leave[2]", nil).Reply("leave[0]", nil)
			s.Reply("home", nil)
		}},
		"for-each-of-nothing": {through(stops(2, hopAt("arrive")), hop("home")), func(s *sagatest.Script) { s.Start(journey{}).Reply("home", nil) }},
		"for-each-undone": {through(stops(2, saga.Sequence[stop]{hopAt("arrive"), hopAt("leave")}), hop("home")), func(s *sagatest.Script) {
			s.Start(journey{Days: []string{"x", "y", "z"}})
			s.Reply("arrive[0]", nil).Reply("leave[0]", nil).Reply("arrive[1]", nil).Reject("leave[1]", "no")
			s.Reply("arrive[2]", nil).Reply("arrive[1]", nil).Reply("leave[0]", nil).Reply("arrive[0]", nil)
		}},
		"for-each-with-a-limit-while-an-early-item-is-under-way": {through(stops(2, hopAt("arrive"))), func(s *sagatest.Script) {
			s.Start(journey{Days: []string{"x", "y", "z", "w"}})
			s.Reply("arrive[1]", nil).Reply("arrive[2]", nil)
			_ = s.Order(saga.Order{Verb: saga.Cancel}) // arrive[0] waits for its turn
			s.Wait(time.Second).Reply("arrive[0]", noted("late")).Reply("arrive[3]", nil).Reply("arrive[2]", nil).Reply("arrive[1]", nil).Reply("arrive[0]", nil)
		}},
		"for-each-in-parallel": {
			through(saga.Parallel[journey]{Branches: []saga.Node[journey]{stops(1, hopAt("arrive")), hop("b")}}),
			func(s *sagatest.Script) {
				s.Start(journey{Days: []string{"x", "y"}}).Reply("arrive[0]", nil).Reject("b", "no").Reply("arrive[1]", nil).Reply("arrive[0]", nil)
			},
		},
		"choice-in-for-each": {
			through(stops(2, saga.Choice[stop]{Name: "way", Cases: []saga.Case[stop]{{When: func(s stop) bool { return s.Item == "x" }, Then: hopAt("ride")}}, Else: hopAt("walk")}), hop("home")),
			func(s *sagatest.Script) {
				s.Start(journey{Days: []string{"x", "y"}}).Reply("ride[0]", nil).Reply("walk[1]", nil).Reject("home", "no").Reply("walk[1]", nil).Reply("ride[0]", nil)
			},
		},
		"undo-after-in-for-each": {
			through(stops(1, saga.Parallel[stop]{Branches: []saga.Node[stop]{
				func() saga.Step[stop] { s := hopAt("a"); s.UndoAfter = []string{"b"}; return s }(), hopAt("b"),
			}}), hop("home")),
			func(s *sagatest.Script) {
				s.Start(journey{Days: []string{"x", "y"}}).Reply("a[0]", nil).Reply("b[0]", nil).Reply("a[1]", nil).Reply("b[1]", nil).Reject("home", "no")
				s.Reply("b[1]", nil).Reply("a[1]", nil).Reply("b[0]", nil).Reply("a[0]", nil)
			},
		},
		"for-each-around-a-local-step": {
			through(stops(2, saga.Local[stop]{Name: "note", Do: nothing[stop], Undo: nothing[stop]}), hop("home")),
			func(s *sagatest.Script) {
				s.Start(journey{Days: []string{"x", "y"}}).Local("note[0]", nil).Local("note[1]", nil).Reject("home", "no").Local("note[1]", nil).Local("note[0]", nil)
			},
		},
		"await": {through(await, hop("end")), func(s *sagatest.Script) {
			s.Start(journey{}).Signal(decided, noted("ship")).Again().Reply("end", nil)
		}},
		"await-kept-signal": {through(hop("a"), await), func(s *sagatest.Script) {
			s.Start(journey{}).Signal(elapsed, noted("nobody awaits this")).Signal(decided, noted("first")).Again().Signal(decided, noted("second")).Reply("a", nil)
		}},
		"await-times-out": {through(hop("a"), await), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("a", nil).TimeOut("decision").Signal(decided, noted("too late")).Reply("a", nil)
		}},
		"await-on-timeout": {through(rested, hop("end")), func(s *sagatest.Script) {
			s.Start(journey{}).TimeOut("decision").Signal(decided, noted("too late")).Reply("default", nil).Reject("end", "no").Reply("default", nil)
		}},
		"sleep": {through(hop("a"), saga.Sleep[journey]{Name: "rest", For: time.Hour}, hop("b")), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("a", nil).Wait(59*time.Minute).Wait(time.Minute).Reply("b", nil)
		}},
		"sleep-until": {
			through(saga.Sleep[journey]{Name: "rest", Until: func(journey) time.Time { return dawn.Add(90 * time.Minute) }}, saga.Sleep[journey]{Name: "past", Until: func(journey) time.Time { return dawn }}, hop("b")),
			func(s *sagatest.Script) { s.Start(journey{}).Wait(90*time.Minute).Reply("b", nil) },
		},
		"sleep-cut-short": {through(hop("a"), saga.Sleep[journey]{Name: "rest", For: time.Hour}), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("a", nil).Order(saga.Order{Verb: saga.Cancel})
			s.Wait(0).Reply("a", nil)
		}},
		"decide": {through(decide, hop("end")), func(s *sagatest.Script) {
			s.Start(journey{Days: []string{"left", "right", "left"}}).Reply("l[0]", nil).Reply("r[1]", nil).Reply("l[2]", nil).Reply("end", nil)
		}},
		"decide-undone": {through(decide), func(s *sagatest.Script) {
			s.Start(journey{Days: []string{"left", "right"}}).Reply("l[0]", nil).Reject("r[1]", "no").Reply("l[0]", nil)
		}},
		"decide-that-is-wrong": {through(decide), func(s *sagatest.Script) {
			s.Start(journey{Days: []string{"left", "up"}}).Reply("l[0]", nil).Reply("l[0]", nil)
		}},
		"handler": {through(handled(false), hop("end")), func(s *sagatest.Script) {
			s.Start(journey{}).Reject("a", "full").Reply("h[0]", nil).Wait(time.Minute).Reject("end", "no").Reply("h[0]", nil)
		}},
		"handler-with-retry": {through(handled(true), hop("end")), func(s *sagatest.Script) {
			s.Start(journey{}).Reject("a", "full").Reply("h[0]", nil).Wait(time.Minute).Reject("a", "full").Reply("h[1]", nil).Wait(time.Minute).Reply("a", noted("at last"))
			s.Reject("end", "no").Reply("a", nil).Reply("h[1]", nil).Reply("h[0]", nil)
		}},
		"handler-of-another-code": {through(handled(true)), func(s *sagatest.Script) { s.Start(journey{}).Reject("a", "other") }},
		"handler-of-the-pivot": {
			through(hop("z"), hop("a", pivotal, func(s *saga.Step[journey]) {
				s.OnReject = map[events.Code]saga.Handler[journey]{"full": {Do: saga.Sleep[journey]{Name: "rest", For: time.Minute}, Retry: true}}
			})),
			func(s *sagatest.Script) {
				s.Start(journey{}).Reply("z", nil).Reject("a", "full").Order(saga.Order{Verb: saga.Cancel}) // not decided yet
				s.Reply("z", nil)
			},
		},
		"child": {through(child, hop("end")), func(s *sagatest.Script) { s.Start(journey{}).Reply("trip", arrived{}).Reply("end", nil) }},
		"child-recalled": {through(child, hop("end")), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("trip", arrived{}).Reject("end", "no").Reply("trip", nil)
		}},
		"child-failed": {through(hop("a"), child), func(s *sagatest.Script) { s.Start(journey{}).Reply("a", nil).Reject("trip", "full").Reply("a", nil) }},
		"recalled-by-its-parent": {through(hop("a"), hop("b")), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("a", nil).Recall().Again().Reply("b", nil).Reply("a", nil).Again()
		}},
		"recalled-after-its-end":    {through(hop("a")), func(s *sagatest.Script) { s.Start(journey{}).Reply("a", nil).Recall().Reply("a", nil) }},
		"recalled-before-its-start": {through(hop("a")), func(s *sagatest.Script) { s.Recall().Start(journey{}) }},
		"recalled-past-its-pivot":   {through(hop("a", pivotal)), func(s *sagatest.Script) { s.Start(journey{}).Recall().Reply("a", nil) }},
		"local": {through(local, hop("end")), func(s *sagatest.Script) {
			s.Start(journey{}).Fail("book", "deadlock").Wait(time.Second).Local("book", journey{Mode: "booked"}).Reject("end", "no").Local("book", nil)
		}},
		"local-rejected": {through(hop("a"), local), func(s *sagatest.Script) { s.Start(journey{}).Reply("a", nil).Reject("book", "full").Reply("a", nil) }},
		"local-keeps-failing": {through(hop("a"), local), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("a", nil)
			for range 5 {
				s.Fail("book", "table is gone").Next()
			}
			s.Wait(time.Minute).Reply("a", nil)
		}},
		"deadline": {
			func() saga.Definition[journey] {
				d := through(hop("a"), await, hop("b", pivotal))
				d.Deadline = 2 * time.Hour
				return d
			}(),
			func(s *sagatest.Script) {
				s.Start(journey{}).Wait(time.Second).Reply("a", nil)
				_ = s.Order(saga.Order{Verb: saga.Pause, By: "eve", Reason: "lunch"})
				s.Wait(3 * time.Hour)
				_ = s.Order(saga.Order{Verb: saga.Resume, By: "eve", Reason: "eaten"})
				s.Wait(0).Reply("a", nil)
			},
		},
		"deadline-says-nothing-past-the-pivot": {
			func() saga.Definition[journey] {
				d := through(hop("b", pivotal), hop("c", onward))
				d.Deadline = time.Minute
				return d
			}(),
			func(s *sagatest.Script) { s.Start(journey{}).Wait(61*time.Second).Reply("b", nil).Reply("c", nil) },
		},
		"pause": {through(hop("a"), hop("b")), func(s *sagatest.Script) {
			s.Start(journey{})
			_ = s.Order(saga.Order{Verb: saga.Pause, By: "eve", Reason: "lunch"})
			s.Wait(time.Hour).Reply("a", noted("taken in")).Wait(time.Hour)
			_ = s.Order(saga.Order{Verb: saga.Resume, By: "eve", Reason: "eaten"})
			s.Reply("b", nil)
		}},
		"trouble-with-two-steps": {
			through(hop("p", pivotal), saga.Parallel[journey]{Branches: []saga.Node[journey]{hop("a", onward), hop("b", onward)}}),
			func(s *sagatest.Script) {
				s.Start(journey{}).Reply("p", nil).Reject("a", "no").Reject("b", "never").Again()
				_ = s.Order(saga.Order{Verb: saga.RetryNow, Step: "b", By: "eve", Reason: "mended"})
				s.Reply("b", nil).Ends(saga.Stuck, "no") // a still is
				_ = s.Order(saga.Order{Verb: saga.RetryNow, By: "eve", Reason: "mended"})
				s.Reply("a", nil)
			},
		},
		"lock": {through(hop("a"), saga.Lock[journey]{Name: "seat", Key: func(journey) string { return "7a" }, Timeout: time.Hour}, hop("b")), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("a", nil).Grant("seat").Again().Reject("b", "no").Reply("a", nil)
		}},
		"lock-not-given": {through(hop("a"), saga.Lock[journey]{Name: "seat", Key: func(journey) string { return "7a" }, Timeout: time.Hour, TimeoutCode: "no_seat"}), func(s *sagatest.Script) {
			s.Start(journey{}).Reply("a", nil).TimeOut("seat").Reply("a", nil)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := sagatest.Play(t, test.flow)
			test.play(s)
			if in := s.Instance(); !in.Status.Final() {
				t.Errorf("it is %s at the end", in.Status)
			}
			golden(t, "nodes/"+name+".trace", s.Trace())
			if !strings.Contains(name, "wrong") {
				sagatest.Unwind(t, test.flow, travels)
			}
		})
	}
}

var travels = sagatest.Request(travel, func(rng *rand.Rand) journey {
	days := [][]string{nil, {"left"}, {"left", "right", "right"}, {"left", "right"}}
	return journey{Days: days[rng.IntN(len(days))], Mode: []string{"ship", "train", "fly"}[rng.IntN(3)]}
})

func nothing[S any](context.Context, pgx.Tx, *S) error { return nil }

package saga_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/saga"
)

func TestDecideForward(t *testing.T) {
	t.Run("every reply sends the next command, the last one completes", func(t *testing.T) {
		p := started(t, standard(), "").finish()
		p.ended(saga.Completed, "", "alpha beta gamma delta")
		if want := `{"Tickets":[5,4,5,5]}`; string(p.saga.Result) != want {
			t.Errorf("result %s, want %s", p.saga.Result, want)
		}
		if p.saga.ID != tripID || p.saga.Name != "trip" || p.saga.Version != 1 || p.saga.StartType != begin.Type() ||
			p.saga.Fingerprint != "f" || !p.saga.CreatedAt.Equal(dawn) {
			t.Errorf("saga %+v", p.saga)
		}
	})
	t.Run("a command is addressed by its contract and built from the state", func(t *testing.T) {
		p := started(t, standard(), "")
		want := saga.Effect{ID: saga.DoID(tripID, "alpha"), Step: "alpha", Type: doA.Type(), Topic: doA.Topic(), Data: encode(t, booking{Trip: tripID}), Attempt: 1}
		if string(encode(t, p.sent)) != string(encode(t, []saga.Effect{want})) {
			t.Errorf("sent %+v, want %+v", p.sent, want)
		}
	})
	t.Run("a flow without a pivot completes", func(t *testing.T) {
		started(t, define(alpha(), note(), beta()), "").finish().ended(saga.Completed, "", "alpha note beta")
	})
	t.Run("a reply without data folds as the zero reply", func(t *testing.T) {
		p := started(t, standard(), "")
		p.decide(saga.Input{Reply: &saga.ReplyInput{CommandID: saga.DoID(tripID, "alpha")}})
		p.ended(saga.Running, "", "alpha beta")
	})
}

func TestDecideRejection(t *testing.T) {
	t.Run("at the first step nothing is undone", func(t *testing.T) {
		p := started(t, standard(), "")
		p.reject("full")
		p.ended(saga.Compensated, "full", "alpha")
		if want := (saga.Failure{Step: "alpha", Code: "full", Message: "no"}); *p.saga.Failure != want {
			t.Errorf("failure %+v", *p.saga.Failure)
		}
	})
	t.Run("before the pivot earlier steps are undone in reverse", func(t *testing.T) {
		p := started(t, define(alpha(), beta(), gamma(), pivot(delta())), "").until("gamma")
		p.reject("full")
		p.finish().ended(saga.Compensated, "full", "alpha beta gamma -beta -alpha")
	})
	t.Run("steps without an undo are passed over", func(t *testing.T) {
		p := started(t, define(note(), alpha(), second(note()), beta()), "").until("beta")
		p.reject("full")
		p.finish().ended(saga.Compensated, "full", "note alpha note-2 beta -alpha")
	})
	t.Run("at the pivot everything is undone but the pivot", func(t *testing.T) {
		p := started(t, standard(), "").until("gamma")
		p.reject("full")
		p.finish().ended(saga.Compensated, "full", "alpha beta gamma -beta -alpha")
	})
	t.Run("after the pivot the saga is stuck and not repeated", func(t *testing.T) {
		p := started(t, standard(), "").until("delta")
		p.reject("full")
		p.ended(saga.Stuck, "full", "alpha beta gamma delta")
		if _, _, call := p.awaits(); !call.RetryAt.IsZero() || p.saga.Backward {
			t.Errorf("stuck: %+v", p.saga)
		}
		p.now = p.now.Add(24 * time.Hour)
		if verdict := p.decide(saga.Input{Tick: true}); verdict != saga.Ignored {
			t.Errorf("a tick was %s", verdict)
		}
		if verdict := p.reject("full"); verdict != saga.Ignored {
			t.Errorf("a copy of the rejection was %s", verdict)
		}
		p.finish().ended(saga.Completed, "", "alpha beta gamma delta")
	})
	t.Run("of a stuck pivot turns the saga round", func(t *testing.T) {
		p := started(t, standard(), "").until("gamma").passUntil(saga.Stuck)
		p.reject("full")
		p.finish().ended(saga.Compensated, "full", "alpha beta gamma -beta -alpha")
	})
	t.Run("with a very long story is cut short", func(t *testing.T) {
		p := started(t, standard(), "")
		p.decide(saga.Input{Reply: &saga.ReplyInput{
			CommandID: saga.DoID(tripID, "alpha"), Rejection: &events.Rejection{Code: "full", Message: strings.Repeat("ä", 1<<20)},
		}})
		p.ended(saga.Compensated, "full", "alpha")
		if n := len(p.saga.Failure.Message); n > 1010 || n < 990 {
			t.Errorf("%d bytes of message", n)
		}
	})
}

func TestDecideTimeout(t *testing.T) {
	t.Run("before the pivot undoes the step in doubt first", func(t *testing.T) {
		p := started(t, standard(), "").until("beta").passUntil(saga.Compensating)
		p.ended(saga.Compensating, "timeout", "alpha beta -beta")
		if want := `{"Trip":"` + tripID + `","Why":"in doubt"}`; string(p.sent[0].Data) != want {
			t.Errorf("undo %s, want %s", p.sent[0].Data, want)
		}
		if took := p.now.Sub(dawn); took != 30*time.Second {
			t.Errorf("gave up after %s", took)
		}
		p.reply()
		if want := `{"Trip":"` + tripID + `","Why":"ticket"}`; string(p.sent[0].Data) != want {
			t.Errorf("undo %s, want %s", p.sent[0].Data, want)
		}
		p.reply()
		p.ended(saga.Compensated, "timeout", "alpha beta -beta -alpha")
	})
	t.Run("carries the code of the step", func(t *testing.T) {
		s := beta()
		s.Timeout, s.TimeoutCode = time.Minute, "too_slow"
		p := started(t, define(alpha(), s, pivot(gamma())), "").until("beta").passUntil(saga.Compensating)
		p.finish().ended(saga.Compensated, "too_slow", "alpha beta -beta -alpha")
		if took := p.now.Sub(dawn); took != time.Minute {
			t.Errorf("gave up after %s", took)
		}
	})
	t.Run("of a step without an undo passes it over", func(t *testing.T) {
		p := started(t, define(alpha(), note(), pivot(gamma())), "").until("note").passUntil(saga.Compensating)
		p.finish().ended(saga.Compensated, "timeout", "alpha note -alpha")
	})
	for _, step := range []string{"gamma", "delta"} {
		t.Run("at "+step+" the saga is stuck, tries on, and a late reply resumes it", func(t *testing.T) {
			p := started(t, standard(), "").until(step).passUntil(saga.Stuck)
			if p.now.Sub(dawn) != 30*time.Second || p.saga.Trouble.Code != "no_answer" || p.saga.Trouble.Step != step || p.saga.Backward {
				t.Errorf("stuck after %s: %+v", p.now.Sub(dawn), p.saga.Trouble)
			}
			for range 5 {
				p.pass()
				if len(p.sent) != 1 || p.sent[0].ID != saga.DoID(tripID, step) || p.saga.Status != saga.Stuck {
					t.Errorf("%s sent %+v", p.saga.Status, p.sent)
				}
			}
			p.finish().ended(saga.Completed, "", "alpha beta gamma delta")
		})
	}
	t.Run("a reply after it is ignored", func(t *testing.T) {
		p := started(t, standard(), "").until("beta").passUntil(saga.Compensating)
		for _, rejection := range []*events.Rejection{nil, {Code: "full"}} {
			late := saga.ReplyInput{CommandID: saga.DoID(tripID, "beta"), Data: []byte(`{"Number":1}`), Rejection: rejection}
			if verdict := p.decide(saga.Input{Reply: &late}); verdict != saga.Ignored {
				t.Errorf("late reply was %s", verdict)
			}
		}
	})
}

func TestDecideUndo(t *testing.T) {
	undoing := func(t *testing.T) *player {
		p := started(t, standard(), "").until("gamma")
		p.reject("full")
		return p
	}
	t.Run("refused makes the saga stuck until a good answer comes", func(t *testing.T) {
		p := undoing(t)
		p.reject("locked")
		p.ended(saga.Stuck, "locked", "alpha beta gamma -beta")
		if !p.saga.Backward || p.saga.Failure.Code != "full" {
			t.Errorf("stuck: %+v", p.saga)
		}
		if verdict := p.reject("locked"); verdict != saga.Ignored {
			t.Errorf("a copy of the rejection was %s", verdict)
		}
		p.now = p.now.Add(time.Hour)
		if verdict := p.decide(saga.Input{Tick: true}); verdict != saga.Ignored {
			t.Errorf("a tick was %s", verdict)
		}
		p.finish().ended(saga.Compensated, "full", "alpha beta gamma -beta -alpha")
	})
	t.Run("silent is repeated, after five minutes stuck, and resumes on a late reply", func(t *testing.T) {
		p := undoing(t).passUntil(saga.Stuck)
		if took := p.now.Sub(dawn); took != 5*time.Minute {
			t.Errorf("stuck after %s", took)
		}
		p.ended(saga.Stuck, "no_answer", "alpha beta gamma -beta")
		attempts := p.sent[0].Attempt
		p.pass()
		if len(p.sent) != 1 || p.sent[0].ID != saga.UndoID(tripID, "beta") || p.sent[0].Attempt != attempts+1 {
			t.Errorf("sent %+v", p.sent)
		}
		p.reply()
		if p.saga.Status != saga.Compensating {
			t.Errorf("%s after the late reply", p.saga.Status)
		}
		p.finish().ended(saga.Compensated, "full", "alpha beta gamma -beta -alpha")
	})
	t.Run("silent and then refused is not repeated any more", func(t *testing.T) {
		p := undoing(t).passUntil(saga.Stuck)
		if verdict := p.reject("locked"); verdict != saga.Applied {
			t.Errorf("the rejection was %s", verdict)
		}
		p.ended(saga.Stuck, "locked", "alpha beta gamma -beta")
		p.now = p.now.Add(time.Hour)
		if verdict := p.decide(saga.Input{Tick: true}); verdict != saga.Ignored {
			t.Errorf("a tick was %s", verdict)
		}
	})
}

func TestDecideRepeatsWithOneIDAndGrowingPauses(t *testing.T) {
	s := pivot(alpha())
	s.Retry, s.Timeout = saga.Retry{Min: 2 * time.Second, Max: 10 * time.Second}, time.Hour
	p := started(t, define(s), "")
	first := p.sent[0]
	last := p.now
	for i, seconds := range []int{2, 4, 8, 10, 10, 10} {
		p.pass()
		want := first
		want.Attempt = i + 2
		if got := p.now.Sub(last); got != time.Duration(seconds)*time.Second {
			t.Errorf("pause %d is %s, want %d s", i+1, got, seconds)
		}
		if len(p.sent) != 1 || string(encode(t, p.sent[0])) != string(encode(t, want)) {
			t.Errorf("attempt %d: %+v, want %+v", i+2, p.sent, want)
		}
		last = p.now
	}
	if _, _, call := p.awaits(); call.Attempts != 7 || !call.SentAt.Equal(p.now) || !call.Deadline.Equal(dawn.Add(time.Hour)) {
		t.Errorf("record %+v", call)
	}
	p.finish().ended(saga.Completed, "", "alpha")
}

// However long a saga waits, the pause stays between Min and Max.
func TestDecidePausesStayInBounds(t *testing.T) {
	for _, retry := range []saga.Retry{{}, {Min: time.Nanosecond, Max: time.Hour}, {Min: 6 * time.Hour, Max: 24 * time.Hour}} {
		s := pivot(alpha())
		s.Retry = retry
		p := started(t, define(s), "")
		for range 70 {
			_, _, call := p.awaits()
			low, high := retry.Min, retry.Max
			if retry == (saga.Retry{}) {
				low, high = 5*time.Second, time.Minute
			}
			if pause := call.RetryAt.Sub(call.SentAt); pause < low || pause > high {
				t.Fatalf("%+v: pause %d is %s", retry, call.Attempts, pause)
			}
			p.sent, p.log = nil, nil
			p.now = call.RetryAt
			next, _, _ := p.program.Decide(p.saga, saga.Input{Tick: true}, p.now)
			p.saga = next
		}
	}
}

func TestDecideIgnores(t *testing.T) {
	reply := func(id string) saga.Input {
		return saga.Input{Reply: &saga.ReplyInput{CommandID: id, Data: []byte(`{}`)}}
	}
	states := map[string]func(t *testing.T) *player{
		"nothing": func(t *testing.T) *player { return play(t, standard()) },
		"running": func(t *testing.T) *player { return started(t, standard(), "").until("beta") },
		"compensating": func(t *testing.T) *player {
			return started(t, standard(), "").until("beta").passUntil(saga.Compensating)
		},
		"stuck":     func(t *testing.T) *player { return started(t, standard(), "").until("delta").passUntil(saga.Stuck) },
		"completed": func(t *testing.T) *player { return started(t, standard(), "").finish() },
		"compensated": func(t *testing.T) *player {
			p := started(t, standard(), "").until("gamma")
			p.reject("full")
			return p.finish()
		},
	}
	for name, state := range states {
		t.Run(name, func(t *testing.T) {
			p := state(t)
			_, awaited, _ := p.awaits()
			inputs := map[string]saga.Input{
				"nothing": {}, "an early tick": {Tick: true}, "an unknown reply": reply("x"), "a reply to nothing": reply(""),
				"a rejection of nothing": {Reply: &saga.ReplyInput{CommandID: "x", Rejection: &events.Rejection{Code: "full"}}},
			}
			for _, step := range []string{"alpha", "beta", "gamma", "delta"} {
				for _, id := range []string{saga.DoID(tripID, step), saga.UndoID(tripID, step)} {
					if id != awaited || name == "abandoned" {
						inputs["the reply to "+step+" "+id] = reply(id)
					}
				}
			}
			if name != "nothing" {
				inputs["a second start"] = saga.Input{Start: &saga.StartInput{ID: tripID, Request: []byte(`{}`)}}
			}
			for what, input := range inputs {
				if verdict := p.decide(input); verdict != saga.Ignored {
					t.Errorf("%s was %s", what, verdict)
				}
			}
			if p.saga.Status.Final() {
				p.now = p.now.Add(time.Hour)
				if verdict := p.decide(saga.Input{Tick: true}); verdict != saga.Ignored {
					t.Errorf("a late tick was %s", verdict)
				}
			}
		})
	}
}

func TestDecideBadRequestEndsCompensatedWithNothingSent(t *testing.T) {
	for name, request := range map[string]string{
		"nothing": "", "no JSON": "{", "another shape": `{"trip":1}`, "one that begin panics on": `{"fail":"begin"}`,
		"one too large": `{"fail":"` + strings.Repeat("x", broker.MessageBytesMax) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			p := play(t, standard())
			p.start([]byte(request))
			p.ended(saga.Compensated, "invalid_request", "")
			if strings.Contains(p.saga.Failure.Message, "panic") {
				t.Errorf("the client is told %q", p.saga.Failure.Message)
			}
		})
	}
}

func TestDecideUserCodePanics(t *testing.T) {
	reject := func(p *player) { p.until("gamma").reject("full") }
	for where, test := range map[string]struct {
		drive    func(*player)
		status   saga.Status
		code     events.Code
		commands string
	}{
		"build alpha": {nil, saga.Compensated, "definition_failed", ""},
		"fold alpha":  {nil, saga.Compensated, "definition_failed", "alpha -alpha"},
		"build beta":  {nil, saga.Compensated, "definition_failed", "alpha -alpha"},
		"fold beta":   {nil, saga.Compensated, "definition_failed", "alpha beta -beta -alpha"},
		"build gamma": {nil, saga.Compensated, "definition_failed", "alpha beta -beta -alpha"},
		"build delta": {nil, saga.Stuck, "definition_failed", "alpha beta gamma"},
		"result":      {nil, saga.Stuck, "definition_failed", "alpha beta gamma delta"},
		"undo beta":   {reject, saga.Stuck, "definition_failed", "alpha beta gamma"},
		"undo alpha":  {reject, saga.Stuck, "definition_failed", "alpha beta gamma -beta"},
	} {
		t.Run(where, func(t *testing.T) {
			p := started(t, standard(), where)
			if test.drive != nil {
				test.drive(p)
			}
			p.finish().ended(test.status, test.code, test.commands)
		})
	}
	for where, commands := range map[string]string{"fold gamma": "alpha beta gamma", "fold delta": "alpha beta gamma delta"} {
		t.Run(where+" is tried again", func(t *testing.T) {
			step := strings.TrimPrefix(where, "fold ")
			p := started(t, standard(), where).until(step)
			p.reply()
			p.ended(saga.Stuck, "definition_failed", commands)
			p.pass() // asks for the reply again
			p.reply()
			p.ended(saga.Stuck, "definition_failed", commands)
			// The definition is mended.
			p.saga.State = json.RawMessage(strings.Replace(string(p.saga.State), where, "", 1))
			p.finish().ended(saga.Completed, "", "alpha beta gamma delta")
		})
	}
}

func TestDecideUserCodeGetsWhatItCannotRead(t *testing.T) {
	t.Run("a reply of another shape undoes the step", func(t *testing.T) {
		p := started(t, standard(), "").until("beta")
		p.decide(saga.Input{Reply: &saga.ReplyInput{CommandID: saga.DoID(tripID, "beta"), Data: []byte(`{"Number":"x"}`)}})
		// Its undo cannot read the reply either, so somebody has to look.
		p.ended(saga.Stuck, "definition_failed", "alpha beta")
		if p.saga.Trouble.Step != "beta" || p.saga.Failure.Step != "beta" {
			t.Errorf("trouble %+v, failure %+v", p.saga.Trouble, p.saga.Failure)
		}
	})
	t.Run("a state of another shape turns the saga round", func(t *testing.T) {
		p := started(t, standard(), "")
		p.saga.State = json.RawMessage(`{"ID":1}`)
		p.reply()
		p.ended(saga.Stuck, "definition_failed", "alpha") // its undo needs the state as well
	})
}

// A message that no broker takes would fail its transaction for ever.
func TestDecideTakesTooMuchDataForAFailureOfTheDefinition(t *testing.T) {
	big := beta()
	big.Do = saga.Call(doB, func(trip) booking { return booking{Fail: strings.Repeat("x", broker.MessageBytesMax)} }, nil)
	p := started(t, define(alpha(), big, pivot(gamma())), "").until("-alpha")
	p.finish().ended(saga.Compensated, "definition_failed", "alpha -alpha")
}

// second is a step of another name.
func second(s saga.Step[trip]) saga.Step[trip] {
	s.Name += "-2"
	return s
}

func TestDecideKeepsTimeGoingForward(t *testing.T) {
	for name, c := range map[string]struct{ ahead, want time.Duration }{
		"a sender a little ahead is believed": {2 * time.Millisecond, 2 * time.Millisecond},
		"a sender far ahead is not":           {time.Hour, 0},
		"a sender behind changes nothing":     {-time.Second, 0},
	} {
		p := play(t, standard())
		request := encode(t, booking{Trip: "x"})
		p.decide(saga.Input{Start: &saga.StartInput{ID: tripID, Request: request, At: p.now.Add(c.ahead)}})
		if want := dawn.Add(c.want); !p.saga.CreatedAt.Equal(want) || !p.saga.UpdatedAt.Equal(want) {
			t.Errorf("%s: created %s, updated %s, want %s", name, p.saga.CreatedAt, p.saga.UpdatedAt, want)
		}
	}
}

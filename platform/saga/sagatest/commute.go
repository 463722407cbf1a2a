package sagatest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/saga"
)

// commuteRuns is how many random runs Commute looks at.
const commuteRuns = 50

// Commute checks that it does not matter in which order the replies of work come
// that goes on at the same time, in a [saga.Parallel] or a [saga.ForEach]: wherever
// two are awaited, both orders must lead to the same state. [Explore] checks it too.
func Commute(t testing.TB, definition saga.Compiler, options ...Option) {
	t.Helper()
	s := newSetup(definition, options)
	if s.err != nil {
		t.Fatal(s.err)
	}
	for seed := range uint64(commuteRuns) {
		if err := (&walk{world: newWorld(s.run(), seed, weather{}), replies: make(map[string]saga.Input)}).run(); err != nil {
			t.Fatalf("run %d: %v", seed, err)
			return
		}
	}
}

// walk is one run of a saga in which everything answers at once.
type walk struct {
	world   *world
	program *saga.Program
	saga    saga.Instance
	now     time.Time
	replies map[string]saga.Input // by record and round, so that each is made up once
}

// walkMax bounds the turns of a run.
const walkMax = 500

func (k *walk) run() error {
	disconnect, err := k.world.connect()
	if err != nil {
		return err
	}
	defer disconnect()
	k.program, k.now = k.world.setup.programs[0], dawn
	request, err := k.world.made(k.program.StartContract(), k.world.setup.requests, "")
	if err != nil {
		return err
	}
	k.saga = k.after(k.saga, saga.Input{Start: &saga.StartInput{ID: "018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f", Request: request}})
	rng := source(k.world.seed, 3)
	for range walkMax {
		names, inputs, err := k.awaited()
		if err != nil {
			return err
		}
		for i := range inputs {
			for j := range i {
				if err := k.same(names[j], inputs[j], names[i], inputs[i]); err != nil {
					return err
				}
			}
		}
		switch {
		case len(inputs) > 0 && rng.IntN(8) == 0:
			k.now = k.now.Add(time.Duration(rng.Int64N(int64(time.Minute)))).Truncate(time.Microsecond)
			k.saga = k.after(k.saga, saga.Input{Tick: true})
		case len(inputs) > 0:
			k.saga = k.after(k.saga, inputs[rng.IntN(len(inputs))])
		case k.saga.Due().IsZero():
			return nil // it has ended, or is stuck
		default:
			if err := k.wait(); err != nil {
				return err
			}
		}
	}
	return nil
}

// wait lets time pass until the saga does something.
func (k *walk) wait() error {
	if due := k.saga.Due(); due.After(k.now) {
		k.now = due
	}
	input := saga.Input{Tick: true}
	if record := k.saga.DueLocal(k.now); record != nil {
		local, at, err := k.world.attempt(&k.saga, *record)
		if err == nil {
			err = at.commit()
		}
		if err != nil {
			return err
		}
		input = saga.Input{Local: &local}
	}
	k.saga = k.after(k.saga, input)
	return nil
}

func (k *walk) after(in saga.Instance, input saga.Input) saga.Instance {
	out, effects, _ := k.program.Decide(in, input, k.now)
	for _, e := range effects {
		if e.Type == "" {
			out = k.after(out, saga.Input{Lock: &saga.LockInput{Step: e.Step}})
		}
	}
	return out
}

// awaited returns the answers to everything that the saga waits for.
func (k *walk) awaited() (names []string, inputs []saga.Input, err error) {
	for i := range k.saga.Steps {
		r := &k.saga.Steps[i]
		undo := r.Status == saga.StepCompensating
		if !undo && (r.Status != saga.StepRunning || k.saga.Backward) {
			continue
		}
		c, ok := k.world.contracts[k.saga.Name+"/"+nodeName(r.Name)]
		if !ok || c.Kind == "local step" {
			continue
		}
		key := fmt.Sprint(r.Name, r.Round, undo)
		input, made := k.replies[key]
		if !made {
			if input, err = k.reply(r, c, undo); err != nil {
				return nil, nil, err
			}
			k.replies[key] = input
		}
		names, inputs = append(names, r.Name), append(inputs, input)
	}
	return names, inputs, nil
}

func (k *walk) reply(r *saga.StepRecord, c saga.Contracts, undo bool) (saga.Input, error) {
	if c.Kind == "await" {
		data, err := k.world.made(c.Do, k.world.setup.signals, r.Name)
		return saga.Input{Signal: &saga.SignalInput{ID: r.Name, Type: c.Do.Type, Data: data}}, err
	}
	effect := saga.Effect{ID: r.DoID(k.saga.ID), Type: c.Do.Type, Data: r.Do.Request}
	if undo {
		effect = saga.Effect{ID: r.UndoID(k.saga.ID), Type: c.Undo.Type, Data: r.Undo.Request, Undoes: effect.ID}
	}
	data, rejection, err := k.world.answer(&effect)
	if err != nil {
		return saga.Input{}, fmt.Errorf("answer %s: %w", r.Name, err)
	}
	return saga.Input{Reply: &saga.ReplyInput{CommandID: effect.ID, Data: data, Rejection: rejection}}, nil
}

// same plays two inputs in both orders and compares what becomes of the state, and
// of the items of those for-each nodes that the saga is in.
func (k *walk) same(first string, a saga.Input, second string, b saga.Input) error {
	ab := k.after(k.after(k.saga, a), b)
	ba := k.after(k.after(k.saga, b), a)
	if ab.Backward || ba.Backward {
		return nil // states count going forward
	}
	one, other := stateOf(&ab, len(k.saga.Steps)), stateOf(&ba, len(k.saga.Steps))
	if one != other {
		return fmt.Errorf("the order of the replies of %s and %s matters: the states are\n%s\n%s\nlet their folds write different fields, or such that order does not count",
			first, second, one, other)
	}
	return nil
}

func stateOf(in *saga.Instance, known int) string {
	var text strings.Builder
	text.Write(bytes.TrimSpace(in.State))
	for i := range min(known, len(in.Steps)) {
		if items := in.Steps[i].Items; len(items) > 0 {
			data, _ := json.Marshal(items)
			fmt.Fprintf(&text, " %s %s", in.Steps[i].Name, data)
		}
	}
	return text.String()
}

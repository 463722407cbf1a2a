package saga_test

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/saga"
)

// voyage has one of each node that is undone: a local step, branches, items.
func voyage() saga.Definition[trip] {
	d := define()
	local := func(context.Context, pgx.Tx, *trip) error { return nil }
	d.Flow = saga.Sequence[trip]{
		saga.Local[trip]{Name: "ledger", Do: local, Undo: local},
		saga.Parallel[trip]{Branches: []saga.Node[trip]{
			saga.Sequence[trip]{alpha(), beta()},
			gamma(),
		}},
		saga.ForEach[trip, int]{
			Name: "legs", Items: func(trip) []int { return []int{7, 8, 9} }, Limit: 2,
			Body: saga.Step[saga.Each[trip, int]]{
				Name: "leg",
				Do:   saga.Call(doA, func(s saga.Each[trip, int]) booking { return booking{Trip: s.State.ID} }, nil),
				Undo: saga.Undo(doA, undoA, func(s saga.Each[trip, int], _ saga.Sent[booking, ticket]) refund {
					return refund{s.State.ID, "leg"}
				}),
			},
		},
		delta2(),
	}
	return d
}

// delta2 is delta before the pivot.
func delta2() saga.Step[trip] {
	s := delta()
	s.NoUndo = "nobody minds"
	return s
}

// answered plays a saga until nothing is awaited, at most that many answers, and
// returns everything that was sent.
func answered(t *testing.T, program *saga.Program, in saga.Instance, sent []saga.Effect, most int) (saga.Instance, []saga.Effect) {
	t.Helper()
	open, all := slices.Clone(sent), slices.Clone(sent)
	for range most {
		input := saga.Input{}
		for i := range in.Steps {
			r := &in.Steps[i]
			undo := r.Status == saga.StepCompensating
			if r.Kind == "local step" && (r.Status == saga.StepRunning || undo) {
				input = saga.Input{Local: &saga.LocalInput{Step: r.Name, Undo: undo, State: in.State}}
			}
		}
		if input.Local == nil {
			if len(open) == 0 {
				return in, all
			}
			reply := &saga.ReplyInput{CommandID: open[0].ID}
			if open[0].Undoes == "" {
				reply.Data = []byte(`{"Number":1}`)
			}
			input, open = saga.Input{Reply: reply}, open[1:]
		}
		var effects []saga.Effect
		in, effects, _ = program.Decide(in, input, dawn)
		open, all = append(open, effects...), append(all, effects...)
	}
	return in, all
}

// What a preview tells is what is sent then, wherever the saga stands.
func TestPreviewIsWhatIsSent(t *testing.T) {
	t.Parallel()
	for name, definition := range map[string]saga.Compiler{"steps": define(alpha(), beta(), gamma()), "all nodes": voyage()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program, err := definition.Compile()
			if err != nil {
				t.Fatal(err)
			}
			longest := 0
			for most := range 12 {
				start, sent, _ := program.Decide(saga.Instance{}, saga.Input{Start: &saga.StartInput{ID: tripID, Request: []byte(`{}`)}}, dawn)
				in, _ := answered(t, program, start, sent, most)
				if in.Status.Final() {
					break
				}
				preview, err := program.Preview(in, dawn)
				if err != nil {
					t.Fatalf("after %d answers: %v", most, err)
				}
				back, sent, err := program.Obey(in, by(saga.Compensate), dawn)
				if err != nil {
					t.Fatal(err)
				}
				end, all := answered(t, program, back, sent, 100)
				if preview.Ends != end.Status || end.Status != saga.Compensated {
					t.Errorf("after %d answers it ends %s, by the preview %s", most, end.Status, preview.Ends)
				}
				var want, got []string
				for _, effect := range all {
					want = append(want, effect.Step+" "+effect.ID+" "+string(effect.Data))
				}
				for _, p := range preview.Sends {
					if p.Kind == "local step" {
						continue
					}
					got = append(got, p.Step+" "+p.ID+" "+string(p.Request))
					if status := statusOf(&in, p.Step); p.InDoubt != (status != saga.StepDone) || !p.Undo {
						t.Errorf("%s is %s, and in the preview %+v", p.Step, status, p)
					}
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("after %d answers the preview tells\n%s\nand sent is\n%s", most, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				longest = max(longest, len(preview.Sends))
			}
			if want := map[string]int{"steps": 3, "all nodes": 7}[name]; longest != want {
				t.Errorf("the longest preview has %d compensations, want %d", longest, want)
			}
		})
	}
}

func statusOf(in *saga.Instance, step string) saga.StepStatus {
	for _, s := range in.Steps {
		if s.Name == step {
			return s.Status
		}
	}
	return ""
}

func TestPreviewOfASagaThatCompensatesTellsTheRest(t *testing.T) {
	t.Parallel()
	p := started(t, define(alpha(), beta(), gamma()), "").until("gamma")
	p.reject("full")
	preview, err := p.program.Preview(p.saga, p.now)
	if err != nil || len(preview.Sends) != 1 || preview.Sends[0].Step != "alpha" || preview.Ends != saga.Compensated {
		t.Errorf("Preview() = %+v, %v; want the undo of alpha, since that of beta was sent", preview, err)
	}
}

func TestPreviewOfAnUndoThatFailsSaysSo(t *testing.T) {
	t.Parallel()
	p := started(t, define(alpha(), beta()), "undo alpha").until("beta")
	preview, err := p.program.Preview(p.saga, p.now)
	if err != nil || preview.Ends != saga.Stuck || preview.Trouble == nil || preview.Trouble.Step != "alpha" || len(preview.Sends) != 1 {
		t.Errorf("Preview() = %+v, %v", preview, err)
	}
}

func TestEnginePreview(t *testing.T) {
	t.Parallel()
	b, id := newBench(t), ids(1)[0]
	b.process(startOf(t, id))
	b.advance(id, "alpha")
	b.exec("delete from outbox")
	preview, err := b.engine.Preview(t.Context(), id)
	if err != nil || preview.Revision != 2 || preview.Status != saga.Running {
		t.Fatalf("Preview() = %+v, %v", preview, err)
	}
	b.want(id, saga.Running, 2)
	b.order(id, by(saga.Compensate))
	b.advance(id, "-beta", "-alpha")
	var sent []string
	for _, l := range b.outbox() {
		sent = append(sent, l.Event.ID+" "+string(l.Event.Data))
	}
	for i, p := range preview.Sends {
		if want := p.ID + " " + string(p.Request); sent[i] != want {
			t.Errorf("sent %s, the preview says %s", sent[i], want)
		}
	}
	if len(sent) != len(preview.Sends)+1 { // and the outcome
		t.Errorf("sent %d messages, want %d", len(sent), len(preview.Sends)+1)
	}
}

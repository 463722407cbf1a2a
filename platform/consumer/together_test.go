package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/consumer"
)

// gathering are handlers of reserve and release that take all there is at once.
// They note each call, and an item may be told how to end.
type gathering struct {
	r  *rig
	mu sync.Mutex
	// ends are what becomes of an item, by verb and name.
	ends  map[string]error
	calls []string // "reserve a+b"
	fail  func(call string) error
}

func gather(r *rig, attemptsMax int) *gathering {
	r.t.Helper()
	g := &gathering{r: r, ends: make(map[string]error)}
	commands, err := consumer.NewCommands(r.pool, consumer.CommandsConfig{
		Name: name, AttemptsMax: attemptsMax, Wake: r.wake, Logger: r.logger,
	}, consumer.HandleAll(reserve, func(ctx context.Context, tx pgx.Tx, items []consumer.Item[item, ticket]) error {
		return handleItems(ctx, g, tx, "reserve", items, func(n int) ticket { return ticket{n} })
	}), consumer.HandleAll(release, func(ctx context.Context, tx pgx.Tx, items []consumer.Item[item, events.None]) error {
		return handleItems(ctx, g, tx, "release", items, func(int) events.None { return events.None{} })
	}), consumer.Handle(count, func(ctx context.Context, tx pgx.Tx, request item) (events.None, error) {
		g.note("count " + request.Name)
		_, err := tx.Exec(ctx, "insert into effect (verb, item) values ('count', $1)", request.Name)
		return events.None{}, err
	}))
	if err != nil {
		r.t.Fatal(err)
	}
	r.commands = commands
	return g
}

func (g *gathering) note(call string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, call)
}

func (g *gathering) want(calls ...string) {
	g.r.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Equal(g.calls, calls) {
		g.r.t.Errorf("calls %q, want %q", g.calls, calls)
	}
}

func handleItems[R any](ctx context.Context, g *gathering, tx pgx.Tx, verb string, items []consumer.Item[item, R], reply func(n int) R) error {
	var names, kept []string
	for i := range items {
		of := items[i].Request.Name
		names = append(names, of)
		if items[i].Err = g.ends[verb+" "+of]; items[i].Err == nil || errors.Is(items[i].Err, consumer.ErrDeferred) {
			kept = append(kept, of)
		}
		items[i].Reply = reply(len(of))
	}
	call := verb + " " + strings.Join(names, "+")
	g.note(call)
	for i := range items {
		if items[i].Err == nil && strings.HasPrefix(items[i].Request.Name, "fact") {
			if err := consumer.Emit(items[i].Context, reserved, items[i].Request.Name, items[i].Request); err != nil {
				return err
			}
		}
	}
	if _, err := tx.Exec(ctx, "insert into effect (verb, item) select $1, item from unnest($2::text[]) with ordinality as i (item, n) order by n", verb, kept); err != nil {
		return err
	}
	if g.fail != nil {
		return g.fail(call)
	}
	return nil
}

func TestHandleAll(t *testing.T) {
	t.Parallel()
	t.Run("what arrives together is handled by one call, each with a reply and facts of its own", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		g := gather(r, 3)
		g.ends["reserve c"] = events.Reject("out_of_stock", "none")
		a, b, c, d := command(t, reserve, 0, "a"), command(t, reserve, 1, "fact"), command(t, reserve, 1, "c"), command(t, count, 2, "d")
		batch, err := r.process(a, b, c, d)
		if err != nil {
			t.Fatal(err)
		}
		if done, failed := batch.Outcome(); len(done) != 3 || len(failed) != 0 {
			t.Errorf("done %v, failed %v", done, failed)
		}
		g.want("count d", "reserve a+fact+c")
		if got := r.wantReply(a, ""); got != 1 {
			t.Errorf("reply %d", got)
		}
		if got := r.wantReply(b, ""); got != 4 {
			t.Errorf("reply %d", got)
		}
		r.wantReply(c, "out_of_stock")
		r.wantReply(d, "")
		if facts := r.nextFacts(1); facts[0].CausationID != b.ID {
			t.Errorf("fact %+v", facts[0])
		}
		r.wantEffects("count d", "reserve a", "reserve fact")
		if _, err := r.process(a, c); err != nil { // both are known now
			t.Fatal(err)
		}
		r.wantReply(a, "")
		r.wantReply(c, "out_of_stock")
		g.want("count d", "reserve a+fact+c")
	})
	t.Run("a key keeps its order, and a command that comes twice has one effect", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		g := gather(r, 3)
		a, b, c := command(t, reserve, 0, "a"), command(t, reserve, 1, "b"), command(t, reserve, 0, "c")
		back := undo(t, a, "a")
		counted := command(t, count, 0, "k")
		if _, err := r.process(a, b, back, a, c, counted, c, b); err != nil {
			t.Fatal(err)
		}
		g.want("reserve a+b", "release a", "reserve c", "count k")
		r.wantEffects("reserve a", "reserve b", "release a", "reserve c", "count k")
		r.wantReply(a, "")
		r.wantReply(a, "")
		for range 2 {
			r.wantReply(b, "")
			r.wantReply(c, "")
		}
		r.wantReply(back, "")
		r.wantReply(counted, "")
	})
	t.Run("an undo of another key comes after what it undoes", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		g := gather(r, 3)
		a := command(t, reserve, 0, "a")
		back := command(t, release, 1, "a")
		back.Undoes = a.ID
		if _, err := r.process(a, back); err != nil {
			t.Fatal(err)
		}
		g.want("reserve a", "release a")
		r.wantEffects("reserve a", "release a")
	})
	for what, spoil := range map[string]func(g *gathering, e *events.Event){
		"an error of the call": func(g *gathering, _ *events.Event) {
			g.fail = func(call string) error {
				if strings.Contains(call, "bad") {
					return errFlaky
				}
				return nil
			}
		},
		"an error of an item":         func(g *gathering, _ *events.Event) { g.ends["reserve bad"] = errFlaky },
		"a panic":                     func(g *gathering, _ *events.Event) { g.fail = func(call string) error { panicOn(call); return nil } },
		"a request that is not one":   func(_ *gathering, e *events.Event) { e.Data = []byte("{") },
		"a terminal error of an item": func(g *gathering, _ *events.Event) { g.ends["reserve bad"] = consumer.Terminal(errFlaky) },
	} {
		t.Run(what+" costs only the command to blame", func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			g := gather(r, 2)
			bad := command(t, reserve, 1, "bad")
			spoil(g, &bad)
			all, want := []events.Event{}, []string{}
			for n := range 10 {
				all = append(all, command(t, reserve, n%partitions, strconv.Itoa(n)))
				want = append(want, fmt.Sprint("reserve ", n))
			}
			behind := command(t, reserve, 1, "behind")
			r.send(slices.Concat(all[:5], []events.Event{bad, behind}, all[5:])...)
			r.feed()
			for _, e := range append(all, behind) {
				r.wantReply(e, "")
			}
			if got := r.letters(1)[0]; got.Type != reserve.Type() {
				t.Errorf("dead letter %+v", got)
			}
			rows, _ := r.pool.Query(t.Context(), "select verb || ' ' || item from effect where item <> 'pass' order by item")
			if got, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || !slices.Equal(got, append(want, "reserve behind")) {
				t.Errorf("effects %q, %v", got, err)
			}
		})
	}
	t.Run("the others stay together in one transaction", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		g := gather(r, 2)
		g.ends["reserve bad"] = errFlaky
		batch, err := r.process(command(t, reserve, 0, "a"), command(t, reserve, 1, "bad"), command(t, reserve, 2, "c"))
		if err != nil {
			t.Fatal(err)
		}
		if done, failed := batch.Outcome(); len(done) != 2 || len(failed) != 1 {
			t.Errorf("done %v, failed %v", done, failed)
		}
		r.wantEffects("reserve a", "reserve c")
	})
	t.Run("an item may reply later", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		g := gather(r, 3)
		g.ends["reserve b"] = consumer.ErrDeferred
		a, b := command(t, reserve, 0, "a"), command(t, reserve, 1, "b")
		if _, err := r.process(a, b); err != nil {
			t.Fatal(err)
		}
		g.want("reserve a+b")
		r.wantReply(a, "")
		if got := read[string](r, "select string_agg(status, ' ' order by status) from inbox"); got != "deferred replied" {
			t.Errorf("inbox: %s", got)
		}
		r.wantEffects("reserve a", "reserve b")
	})
}

func panicOn(call string) {
	if strings.Contains(call, "bad") {
		panic("ouch")
	}
}

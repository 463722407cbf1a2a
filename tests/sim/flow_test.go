package sim_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// tour is the state of a random flow. Its folds commute.
type tour struct {
	Sum   int
	Turns int
	Seen  map[string]int `json:",omitempty"`
}

type (
	number struct{ N int }
	legs   = saga.Each[tour, int]
)

var (
	beginTour = events.NewCommand[number, number]("test.tour.begin.v1")
	word      = events.NewFact[number]("test.tour.word.v1")
)

// newFlow makes a definition of nodes chosen at random.
func newFlow(seed uint64) saga.Definition[tour] {
	g := &generator[tour]{grower: &grower{rng: rand.New(rand.NewPCG(seed, 7))}, sum: func(s *tour) *tour { return s }}
	g.each = func() saga.Node[tour] {
		inner := &generator[legs]{grower: g.grower, sum: func(s *legs) *tour { return &s.State }}
		inner.each = func() saga.Node[legs] {
			return forEach(inner, &generator[saga.Each[legs, int]]{grower: g.grower, sum: func(s *saga.Each[legs, int]) *tour { return &s.State.State }})
		}
		return forEach(g, inner)
	}
	flow := saga.Sequence[tour]{}
	for range 1 + g.rng.IntN(3) {
		flow = append(flow, g.node())
	}
	if g.rng.IntN(2) == 0 {
		flow = append(flow, g.pivot())
		g.after = true
		for range g.rng.IntN(3) {
			flow = append(flow, g.node())
		}
	}
	d := saga.Definition[tour]{
		Name: "tour", Version: 1, Flow: flow,
		Start: saga.On(beginTour, func(_ string, q number) tour { return tour{Sum: q.N} }, func(s tour) number { return number{s.Sum} }),
	}
	if g.rng.IntN(3) == 0 {
		d.Deadline = time.Minute
		for _, err := d.Compile(); err != nil; _, err = d.Compile() { // no shorter than its timeouts
			d.Deadline += d.Deadline / 2
		}
	}
	return d
}

// forEach goes through a few items of the state of outer.
func forEach[S any](outer *generator[S], inner *generator[saga.Each[S, int]]) saga.Node[S] {
	return saga.ForEach[S, int]{
		Name: outer.name("each"), Limit: 1 + outer.rng.IntN(3), Body: inner.node(),
		Items: func(s S) []int { return make([]int, outer.sum(&s).Sum%4) },
	}
}

// grower is what the generators of one flow share.
type grower struct {
	rng   *rand.Rand
	count int
	depth int
	after bool // the pivot
}

func (g *grower) name(kind string) string {
	g.count++
	return fmt.Sprintf("%s-%d", kind, g.count)
}

// generator makes nodes over the state S.
type generator[S any] struct {
	*grower
	sum  func(*S) *tour
	each func() saga.Node[S] // nil: none inside another
}

func (g *generator[S]) node() saga.Node[S] {
	if g.depth > 2 {
		return g.step()
	}
	g.depth++
	defer func() { g.depth-- }()
	switch g.rng.IntN(16) {
	case 0, 1:
		branches := []saga.Node[S]{g.node(), g.node()}
		if g.rng.IntN(3) == 0 {
			branches = append(branches, g.node())
		}
		return saga.Parallel[S]{Branches: branches, UndoInTurn: g.rng.IntN(3) == 0}
	case 2:
		first, second := g.step(), g.step()
		if g.rng.IntN(2) == 0 {
			return saga.Sequence[S]{g.step(), saga.Parallel[S]{Branches: []saga.Node[S]{first, second}, UndoInTurn: true}, g.step()}
		}
		if !g.after {
			second.UndoAfter = []string{first.Name}
		}
		return saga.Parallel[S]{Branches: []saga.Node[S]{first, second}}
	case 3, 4:
		flow := saga.Sequence[S]{}
		for range 1 + g.rng.IntN(3) {
			flow = append(flow, g.node())
		}
		return flow
	case 5:
		ch := saga.Choice[S]{Name: g.name("choice"), Cases: []saga.Case[S]{
			{When: func(s S) bool { return g.sum(&s).Sum%3 == 0 }, Then: g.node()},
			{When: func(s S) bool { return g.sum(&s).Sum%3 == 1 }, Then: g.node()},
		}}
		if g.rng.IntN(2) == 0 {
			ch.Else = g.node()
		}
		return ch
	case 6, 7:
		if g.each != nil {
			return g.each()
		}
		return g.step()
	case 8:
		a := saga.Await[S]{
			Name: g.name("await"), Timeout: time.Duration(1+g.rng.IntN(60)) * time.Minute,
			For: saga.Signal(word, func(s *S, q number) { g.sum(s).Sum += q.N }),
		}
		if g.rng.IntN(2) == 0 {
			a.OnTimeout = g.node()
		}
		return a
	case 9:
		return saga.Sleep[S]{Name: g.name("sleep"), For: time.Duration(1+g.rng.IntN(600)) * time.Second}
	case 10:
		name := g.name("decide")
		return saga.Decide[S]{
			Name: name, Options: map[string]saga.Node[S]{"left": g.node(), "right": g.node()},
			Next: func(s S, turn int) string {
				switch sum := g.sum(&s).Sum; {
				case turn == 3 || sum%5 == turn:
					return ""
				case sum%2 == 0:
					return "left"
				default:
					return "right"
				}
			},
		}
	case 11:
		l := saga.Local[S]{Name: g.name("local"), Do: nothing[S], Undo: nothing[S]}
		if g.after {
			l.Undo = nil
		}
		return l
	case 12:
		s := g.step()
		s.OnReject = map[events.Code]saga.Handler[S]{"full": {Do: g.node()}}
		return s
	case 13:
		s := g.step()
		wait := saga.Sleep[S]{Name: g.name("rest"), For: time.Minute}
		s.OnReject = map[events.Code]saga.Handler[S]{"full": {Do: wait, Retry: true}, "shut": {Do: saga.Sequence[S]{g.node(), g.step()}, Retry: true}}
		return s
	case 14:
		return saga.Lock[S]{Name: g.name("lock"), Key: func(S) string { return "k" }, Timeout: time.Hour}
	case 15:
		s := g.step()
		c := saga.Child[S]{Name: s.Name, Start: s.Do, OnReject: s.OnReject}
		if g.rng.IntN(3) == 0 {
			c.NoUndo = "it does no harm"
		}
		return c
	}
	return g.step()
}

func (g *generator[S]) step() saga.Step[S] {
	name := g.name("step")
	do := events.NewCommand[number, number]("test."+name+".do.v1", "full", "shut")
	s := saga.Step[S]{Name: name, Do: saga.Call(do,
		func(s S) number { return number{g.sum(&s).Sum} },
		func(s *S, q number) { g.sum(s).Sum += q.N },
	)}
	switch {
	case g.after:
	case g.rng.IntN(6) == 0:
		s.NoUndo = "it does no harm"
	default:
		s.Undo = saga.Undo(do, events.NewCommand[number, events.None]("test."+name+".undo.v1"),
			func(_ S, sent saga.Sent[number, number]) number { return sent.Request })
	}
	if g.rng.IntN(4) == 0 {
		s.Retry = saga.Retry{Min: time.Second, Max: time.Minute, Jitter: 0.5, Attempts: g.rng.IntN(4)}
	}
	return s
}

func (g *generator[S]) pivot() saga.Node[S] {
	if g.rng.IntN(4) == 0 {
		return saga.Local[S]{Name: g.name("pivot"), Pivot: true, Do: nothing[S]}
	}
	g.after = true // without an undo
	s := g.step()
	g.after = false
	s.Pivot = true
	if g.rng.IntN(3) == 0 {
		s.OnReject = map[events.Code]saga.Handler[S]{"full": {Do: saga.Sleep[S]{Name: g.name("rest"), For: time.Minute}, Retry: true}}
	}
	return s
}

func nothing[S any](context.Context, pgx.Tx, *S) error { return nil }

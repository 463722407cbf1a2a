package saga

// Parallel runs its branches at the same time and ends when all have. Branches
// fold into one state in the order in which replies come, so their folds must
// write different fields: [sagatest] plays both orders and tells when they differ.
// When one branch fails the others stop where they are, and what they did, or may
// have done, is undone as well: all branches at the same time, each in reverse.
type Parallel[S any] struct {
	Branches []Node[S]
	// UndoInTurn undoes the steps of all branches one after the other, the last
	// that was done first. See [Step].UndoAfter for an order of your own.
	UndoInTurn bool
}

func (p Parallel[S]) compile(c typed[S]) *node {
	n := &node{kind: kindParallel, inTurn: p.UndoInTurn}
	if len(p.Branches) < 2 {
		c.fail("a parallel needs at least two branches: name its nodes in the sequence instead")
	}
	for _, branch := range p.Branches {
		n.add(compileNode(c, branch))
	}
	return n
}

// Choice runs the first of its cases whose When holds, or Else, or nothing. The
// choice is made once, when the saga comes to it.
type Choice[S any] struct {
	// Name as of [Step].
	Name  string
	Cases []Case[S]
	Else  Node[S] // may be nil
}

// Case is one way of a [Choice].
type Case[S any] struct {
	// When must be pure.
	When func(state S) bool
	Then Node[S]
}

func (ch Choice[S]) compile(c typed[S]) *node {
	n := c.named(kindChoice, ch.Name)
	if len(ch.Cases) == 0 {
		c.fail("choice %q has no cases", ch.Name)
	}
	for i, one := range ch.Cases {
		if one.When == nil {
			c.fail("choice %q: case %d has no When; what always holds belongs in Else", ch.Name, i+1)
			continue
		}
		n.cases = append(n.cases, func(state any) bool { return one.When(*state.(*S)) })
		n.add(compileNode(c, one.Then))
	}
	if ch.Else != nil {
		n.otherwise = true
		n.add(compileNode(c, ch.Else))
	}
	return n
}

// Decide lets Go code pick the next node, again and again: the way out for flows
// that the other nodes cannot say. It runs Next, then the node that Next named,
// then Next again, until Next returns "". Each turn's work is undone in reverse.
type Decide[S any] struct {
	// Name as of [Step].
	Name string
	// Next returns the name of the option to run in that turn, which counts from 0,
	// or "" to end. It must be pure.
	Next    func(state S, turn int) string
	Options map[string]Node[S]
	// Turns bounds how often an option is run: 100 by default. A saga that wants
	// more has failed.
	Turns int
}

func (d Decide[S]) compile(c typed[S]) *node {
	n := c.named(kindDecide, d.Name)
	n.turns = or(d.Turns, 100)
	if d.Next == nil || len(d.Options) == 0 {
		c.fail("decide %q needs Next and at least one option", d.Name)
		return n
	}
	n.next = func(state any, turn int) string { return d.Next(*state.(*S), turn) }
	for _, name := range sortedKeys(d.Options) {
		n.options = append(n.options, name)
		n.add(compileNode(c, d.Options[name]))
	}
	return n
}

package sagatest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

func rejected(code events.Code) *events.Rejection {
	return &events.Rejection{Code: code, Message: "no"}
}

// judge compares, at the end, how sagas say that they ended with what happened.
func (w *world) judge() error {
	for _, id := range w.accepted {
		if w.database.rows[id] == nil {
			return fmt.Errorf("saga %s was accepted and never began", w.name(id))
		}
	}
	for _, label := range w.database.unsent {
		return fmt.Errorf("it was committed and never left the outbox: %s", label)
	}
	owned := make(map[string]*saga.StepRecord) // by the id of a command
	var all []saga.Instance
	for _, id := range w.database.order {
		r := w.database.rows[id]
		if err := replayed(r); err != nil {
			return fmt.Errorf("saga %s: %w", w.name(id), err)
		}
		for i := range r.saga.Steps {
			record := r.saga.Steps[i]
			for record.Round = range r.saga.Steps[i].Round + 1 {
				owned[record.DoID(id)] = &r.saga.Steps[i]
			}
		}
		if !r.saga.Status.Final() {
			return errors.New("nothing will ever happen again, but " + w.standing())
		}
		if err := w.ended(id, &r.saga); err != nil {
			return fmt.Errorf("saga %s %s: %w", w.name(id), r.saga.Status, err)
		}
		if err := w.inOrder(id, &r.saga); err != nil {
			return fmt.Errorf("saga %s %s: %w", w.name(id), r.saga.Status, err)
		}
		all = append(all, r.saga)
	}
	for _, id := range w.ledger.order {
		if a := w.ledger.acts[id]; a.done > 0 && owned[id] == nil {
			return fmt.Errorf("saga %s: %s was done, and the saga knows nothing of it", w.name(a.saga), a.step)
		}
	}
	for _, check := range w.setup.checks {
		if err := check(all); err != nil {
			return err
		}
	}
	return w.judgeRows(all)
}

// replayed checks that the history of a saga is the saga.
func replayed(r *row) error {
	whole, latest, err := r.log.Replay()
	if err != nil {
		return fmt.Errorf("its history cannot be replayed: %w", err)
	}
	stored, err := json.Marshal(r.saga)
	if err != nil {
		return err
	}
	for _, in := range []saga.Instance{whole, latest} {
		got, err := json.Marshal(in)
		if err != nil {
			return err
		}
		if string(got) != string(stored) {
			return fmt.Errorf("its history leads to another saga:\n%s\n%s", got, stored)
		}
	}
	return nil
}

// ended checks that each step is as the end of its saga says: kept or undone.
func (w *world) ended(id string, in *saga.Instance) error {
	taken := make(map[string]bool)
	for i := range in.Steps {
		record := &in.Steps[i]
		contract, called := w.contracts[in.Name+"/"+nodeName(record.Name)]
		if called && contract.Kind == "await" && record.Status == saga.StepDone {
			signal := string(record.Do.Request)
			if taken[signal] && signal != "" {
				return fmt.Errorf("%s took signal %s, which had been taken", record.Name, signal)
			}
			taken[signal] = true
		}
		if !called || contract.Kind == "await" {
			continue
		}
		if w.starts[contract.Do.Type] != nil {
			if err := w.child(in, record, contract); err != nil {
				return err
			}
			continue
		}
		a := w.ledger.acts[record.DoID(id)]
		if a == nil {
			a = &act{}
		}
		switch {
		case in.Status == saga.Completed && record.Status == saga.StepDone && a.done == 0:
			return fmt.Errorf("%s counts as done, and was not", record.Name)
		case in.Status == saga.Completed && record.Status != saga.StepDone && a.done > 0 && a.undone == 0:
			return fmt.Errorf("%s was done, and counts as %s", record.Name, record.Status)
		case in.Status == saga.Completed && a.undone > 0:
			return fmt.Errorf("%s was undone all the same", record.Name)
		case in.Status == saga.Compensated && contract.Undoable && a.done > 0 && a.undone == 0:
			return fmt.Errorf("%s was done and not undone", record.Name)
		}
	}
	return nil
}

// child checks a child saga against the step that began it.
func (w *world) child(in *saga.Instance, record *saga.StepRecord, contract saga.Contracts) error {
	row := w.database.rows[record.DoID(in.ID)]
	status := saga.Status("never began")
	if row != nil {
		status = row.saga.Status
	}
	switch {
	case in.Status == saga.Completed && record.Status == saga.StepDone && status != saga.Completed:
		return fmt.Errorf("%s counts as done, and its child saga is %s", record.Name, status)
	case in.Status == saga.Compensated && contract.Undoable && status == saga.Completed:
		return fmt.Errorf("the child saga of %s stands", record.Name)
	}
	return nil
}

// inOrder checks that what comes after something else is done after it and undone
// before it.
func (w *world) inOrder(id string, in *saga.Instance) error {
	type placed struct {
		act   *act
		place place
		undo  bool
	}
	var acts []placed
	for i := range in.Steps {
		record := &in.Steps[i]
		if a := w.ledger.acts[record.DoID(id)]; a != nil && a.done > 0 {
			acts = append(acts, placed{a, w.shapes[in.Name].place(record.Name), w.contracts[in.Name+"/"+nodeName(record.Name)].Undoable})
		}
	}
	for _, x := range acts {
		for _, y := range acts {
			if !x.place.before(y.place) {
				continue
			}
			switch {
			case y.act.done < x.act.done && y.act.undone == 0:
				return fmt.Errorf("%s was done before %s", y.act.step, x.act.step)
			case x.act.undone > 0 && y.undo && y.act.done < x.act.undone && (y.act.undone == 0 || y.act.undone > x.act.undone):
				return fmt.Errorf("%s was undone while %s, which came after it, stood", x.act.step, y.act.step)
			}
		}
	}
	return nil
}

// shape tells which nodes of a flow come before which others.
type shape struct{ nodes map[string][]spot }

// spot is one turn on the way from the root of a flow to a node.
type spot struct {
	node  *saga.GraphNode
	child int
}

// place is where a record stands: the way to it, with the indexes of what repeats.
type place []step

type step struct {
	node  *saga.GraphNode
	index int // of a for-each, a decide or the rounds of a step
	child int // -1: the node itself
}

func shapeOf(p *saga.Program) *shape {
	s := &shape{nodes: make(map[string][]spot)}
	graph := p.Graph()
	var walk func(n *saga.GraphNode, way []spot)
	walk = func(n *saga.GraphNode, way []spot) {
		if n.Name != "" {
			s.nodes[n.Name] = append(append([]spot(nil), way...), spot{n, -1})
		}
		for i := range n.Nodes {
			walk(&n.Nodes[i], append(append([]spot(nil), way...), spot{n, i}))
		}
	}
	walk(&graph.Flow, nil)
	return s
}

func (s *shape) place(record string) place {
	name, suffix, _ := strings.Cut(record, "[")
	indexes := strings.Split(strings.TrimSuffix(suffix, "]"), ".")
	var out place
	for _, at := range s.nodes[name] {
		one := step{node: at.node, child: at.child}
		if at.child >= 0 && repeats(at.node) && len(indexes) > 0 {
			one.index, _ = strconv.Atoi(indexes[0])
			indexes = indexes[1:]
		}
		out = append(out, one)
	}
	return out
}

// repeats reports whether what is inside of a node may run more than once.
func repeats(n *saga.GraphNode) bool {
	return n.Kind == "for-each" || n.Kind == "decide" || (n.Kind == "step" || n.Kind == "child saga") && len(n.Nodes) > 0
}

// before reports whether what stands at p must be done before what stands at q.
func (p place) before(q place) bool {
	for i := range p {
		if i >= len(q) || p[i].node != q[i].node {
			return false
		}
		a, b := p[i], q[i]
		switch {
		case a.child < 0 || b.child < 0:
			return a.child >= 0 && b.child < 0 // a handler runs before its step is called again
		case a.index != b.index:
			return a.node.Kind != "for-each" && a.index < b.index
		case a.child != b.child:
			return a.node.Kind == "sequence" && a.child < b.child
		}
	}
	return false
}

package gateway

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/gateway/expression"
)

// outcome tells how the end of an operation is answered over HTTP.
type outcome struct {
	completedStatus int
	location        pathTemplate        // nil for no Location
	body            *expression.Program // nil for the operation itself
	rejected        map[string]int      // status by rejection code
	cancelRefused   bool                // clients may not cancel
}

// outcomeScope is what the body of an outcome may be made of.
var outcomeScope = expression.NewScope(expression.Any("operation"), expression.Any("result"))

// rejectedStatusDefault answers a rejection that no route gives a status.
const rejectedStatusDefault = http.StatusConflict

// genericOutcome is that of commands without a route of their own.
var genericOutcome = &outcome{completedStatus: http.StatusOK}

// outcomeOf returns the outcome for a command type: that of its first route, or
// the generic one.
func (t *Table) outcomeOf(commandType string) *outcome {
	if o := t.outcomes[commandType]; o != nil {
		return o
	}
	return genericOutcome
}

// answersFrom reports whether an operation as an outcome event tells it is enough
// to answer a request that waited: what is undone is told by its reason, and a body
// that the route makes is made of the result.
func (o *outcome) answersFrom(op *Operation) bool {
	return op.Status == StatusCompensated || op.Status == StatusCompleted && o.body != nil || op.Status == StatusStuck
}

// document returns the body that the route makes of a completed operation.
func (o *outcome) document(op *Operation) ([]byte, error) {
	value, err := o.body.Make(func(name string) (any, bool) {
		switch name {
		case "operation":
			return map[string]any{"id": op.ID, "status": string(op.Status)}, true
		case "result":
			result, fault := decodeStrict(op.Result)
			return result, fault == nil
		}
		return nil, false
	})
	if err != nil {
		return nil, err
	}
	return encode(value)
}

// problem returns what an operation that ended badly is told as, nil for others.
func (o *outcome) problem(op *Operation) *Problem {
	var p *Problem
	switch op.Status {
	case StatusCompensated:
		p = o.compensation(op.Rejection)
	case StatusAbandoned:
		p = newProblem(codeAbandoned, "An operator ended the operation. It may be done in part.")
	default:
		return nil
	}
	p.Instance = operationPath(op.ID)
	return p
}

func (o *outcome) compensation(rejection *events.Rejection) *Problem {
	if rejection == nil {
		return newProblem(codeCompensated, "Everything it had done was undone.")
	}
	status, ok := o.rejected[string(rejection.Code)]
	if !ok {
		status = rejectedStatusDefault
	}
	return newRejection(string(rejection.Code), status, rejection.Message)
}

// commandRoute is the target of a route of kind command.
type commandRoute struct{ acceptance acceptance }

func (c commandRoute) leads() string   { return c.acceptance.contract.Type }
func (c commandRoute) body() *contract { return c.acceptance.contract }

func (c commandRoute) serve(g *Gateway, _ *snapshot) handler {
	return func(x *exchange, r *http.Request) { g.accept(x, r, &c.acceptance) }
}

func readCommandRoute(t *tableReader, rt *route, m mapping) target {
	a := acceptance{routeID: rt.id, method: rt.method, guards: rt.guards, demand: rt.demand}
	if rt.pattern != "" {
		switch {
		case !slices.Contains([]string{http.MethodPost, http.MethodPut, http.MethodPatch}, rt.method):
			m.failAt(m.at("match"), "match: a command comes by POST, PUT or PATCH")
		case strings.Contains(rt.pattern, "{"):
			m.failAt(m.at("match"), "match: the path of a command has no parameters")
		}
	}
	if commandType := m.required("command"); commandType != "" {
		switch c := t.table.commands[commandType]; {
		case c == nil:
			m.failAt(m.at("command"), "command: %q is unknown, %s", commandType, instead(t.sagaCommands()))
		case !c.Saga:
			m.failAt(m.at("command"), "command: %q starts no saga, so nothing would answer it", commandType)
		default:
			a.contract = c
		}
	}
	switch idempotency := m.text("idempotency"); idempotency {
	case "", "optional":
	case "required":
		a.keyRequired = true
	default:
		m.failAt(m.at("idempotency"), "idempotency: %q is neither optional nor required", idempotency)
	}
	switch accept := m.text("accept"); accept {
	case "", "broker":
	case "outbox":
		a.outbox = true
	default:
		m.failAt(m.at("accept"), "accept: %q is neither broker nor outbox", accept)
	}
	a.waitDefault, a.waitMax = readWait(m)
	if text := m.text("key"); text != "" {
		var err error
		if a.key, err = bodyScope.Words(text); err != nil {
			m.failAt(m.at("key"), "key: %v", err)
		}
		if a.keyRequired {
			m.failAt(m.at("key"), "key: it makes a repeat safe by itself, so leave out idempotency")
		}
	}
	a.outcome = readOutcome(m, a.contract)
	switch cancel := m.text("cancel"); cancel {
	case "", "allowed":
	case "refused":
		a.outcome.cancelRefused = true
	default:
		m.failAt(m.at("cancel"), "cancel: %q is neither allowed nor refused", cancel)
	}
	if a.contract == nil {
		return nil
	}
	first, taken := t.table.first[a.contract.Type]
	if taken && first.outbox != a.outbox {
		m.failAt(m.at("accept"), "accept: route %s takes the same command otherwise, and its keys must be known in one place", first.routeID)
	}
	if !taken {
		t.table.outcomes[a.contract.Type] = a.outcome
		t.table.first[a.contract.Type] = &a
	}
	return commandRoute{a}
}

func (t *tableReader) sagaCommands() []string {
	var types []string
	for _, commandType := range sortedKeys(t.table.commands) {
		if t.table.commands[commandType].Saga {
			types = append(types, commandType)
		}
	}
	return types
}

func readWait(m mapping) (byDefault, most time.Duration) {
	const mostByDefault = 30 * time.Second
	wait, ok := m.inner("wait")
	if !ok {
		return 0, mostByDefault
	}
	most = wait.duration("max", mostByDefault)
	byDefault = wait.duration("default", 0)
	if most > waitLimit {
		wait.failAt(wait.at("max"), "max: want at most %s", waitLimit)
	}
	if byDefault > most {
		wait.failAt(wait.at("default"), "default: it is over the max of %s", most)
	}
	wait.end()
	return byDefault, most
}

// engineCodes are those that the engine itself gives a saga that is undone.
var engineCodes = []string{
	"timeout", "deadline_exceeded", "expired", "cancelled", "compensated_by_operator", "revoked", "invalid_request", "definition_failed",
}

var codePattern = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

func readOutcome(m mapping, c *contract) *outcome {
	o := &outcome{completedStatus: genericOutcome.completedStatus, rejected: make(map[string]int)}
	all, ok := m.inner("outcome")
	if !ok {
		return o
	}
	if completed, ok := all.inner("completed"); ok {
		if status, ok := completed.number("status"); ok {
			o.completedStatus = status
			if status != http.StatusOK && status != http.StatusCreated {
				completed.failAt(completed.at("status"), "status: want 200 or 201")
			}
		}
		if location := completed.text("location"); location != "" {
			var err error
			if o.location, err = parsePathTemplate(location); err != nil {
				completed.failAt(completed.at("location"), "location: %v", err)
			}
		}
		if text := completed.text("body"); text != "" {
			var err error
			if o.body, err = outcomeScope.Document(text); err != nil {
				completed.failAt(completed.at("body"), "body: %v", err)
			}
		}
		completed.end()
	}
	if rejected, ok := all.inner("rejected"); ok {
		for _, name := range rejected.names {
			code := name.Value
			if !codePattern.MatchString(code) || c != nil && len(c.Rejections) > 0 && !slices.Contains(c.Rejections, events.Code(code)) && !slices.Contains(engineCodes, code) {
				rejected.failAt(name, "%q is no rejection code of the command", code)
			}
			status, ok := rejected.number(code)
			if ok && (status < 400 || status > 599) {
				rejected.failAt(rejected.at(code), "%s: want a status from 400 to 599", code)
			}
			o.rejected[code] = status
		}
	}
	all.end()
	return o
}

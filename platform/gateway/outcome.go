package gateway

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/countermand/countermand/events"
)

// outcome tells how the end of an operation is answered over HTTP.
type outcome struct {
	completedStatus int
	locationParts   []string       // around each {id}; nil for no Location
	rejected        map[string]int // status by rejection code
}

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

// location returns where what the operation made is to be found; empty when the
// route does not say.
func (o *outcome) location(id string) string { return strings.Join(o.locationParts, id) }

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

func (c commandRoute) serve(g *Gateway, _ *snapshot) handler {
	return func(x *exchange, r *http.Request) { g.accept(x, r, &c.acceptance) }
}

func readCommandRoute(t *tableReader, rt *route, m mapping) target {
	a := acceptance{routeID: rt.id, method: rt.method}
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
			m.failAt(m.at("command"), "command: %q is unknown, want one of %s", commandType, strings.Join(t.sagaCommands(), ", "))
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
	a.waitDefault, a.waitMax = readWait(m)
	a.outcome = readOutcome(m, a.contract)
	if a.contract == nil {
		return nil
	}
	if _, taken := t.table.outcomes[a.contract.Type]; !taken {
		t.table.outcomes[a.contract.Type] = a.outcome
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
			o.locationParts = strings.Split(location, "{id}")
			if rest := strings.Join(o.locationParts, ""); !strings.HasPrefix(location, "/") || strings.ContainsAny(rest, "{} \r\n") {
				completed.failAt(completed.at("location"), "location: want a path in which {id} stands for the operation, such as /v1/orders/{id}")
			}
		}
		completed.end()
	}
	if rejected, ok := all.inner("rejected"); ok {
		for _, name := range rejected.names {
			code := name.Value
			if !codePattern.MatchString(code) || c != nil && len(c.Rejections) > 0 && !slices.Contains(c.Rejections, events.Code(code)) {
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

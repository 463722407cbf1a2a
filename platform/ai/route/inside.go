package route

import (
	"context"
	"net/http"

	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/upstream"
)

// Inside is a call for somebody who is no client of the endpoints, such as a prompt or
// a saga. It passes what those of clients pass: patterns are taken out of it, and guards
// look at it and at its answer.
type Inside struct {
	*upstream.Plan
	asked exchange
}

// Inside plans a call. Its body is changed.
func (h *Handler) Inside(call Call) (*Inside, error) {
	i := &Inside{asked: exchange{h: h, s: h.current.Load(), call: call}}
	i.asked.redact()
	var err error
	i.Plan, err = h.router.Plan(i.asked.call.Request)
	return i, err
}

// Do makes the call as guards allow. A call whose answer they refuse has been made.
func (i *Inside) Do(ctx context.Context, reservation *budget.Reservation) (*upstream.Answer, error) {
	x := i.asked
	x.r = new(http.Request).WithContext(ctx)
	if err := x.guardRequest(); err != nil {
		return nil, err
	}
	answer, err := i.Plan.Do(ctx, reserved{reservation})
	if err != nil {
		return nil, err
	}
	if err := x.guardResponse(answer.Body); err != nil {
		answer.Close()
		return nil, err
	}
	return answer, nil
}

// Package operation is the saga of a call whose client does not wait for it: one step
// that has the model called. The client follows it as an operation, and cancels it as
// one.
package operation

import (
	"time"

	"github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/saga"
)

// Asked is the state of the saga.
type Asked struct {
	Request ai.CompleteRequest `json:"request"`
	Answer  *ai.Completion     `json:"answer,omitempty"`
}

// Within is how long a call may take with all its tries.
const Within = 30 * time.Minute

// Saga begins with [ai.RequestCompletion], which only a gateway sends: it says who pays.
var Saga = saga.Definition[Asked]{
	Name: "ai-call", Version: 1,
	Start: saga.On(ai.RequestCompletion, func(_ string, request ai.CompleteRequest) Asked { return Asked{Request: request} }, Asked.result),
	Attributes: func(a Asked) map[string]string {
		return map[string]string{"tenant": a.Request.Caller.Tenant, "operation": a.Request.Operation}
	},
	Retention: 7 * 24 * time.Hour,
	Flow: saga.Sequence[Asked]{
		saga.Step[Asked]{
			Name:    "call",
			Do:      saga.Call(ai.Complete, func(a Asked) ai.CompleteRequest { return a.Request }, (*Asked).answered),
			NoUndo:  "what was asked cannot be unasked, and what it cost stays spent",
			Timeout: Within,
			Retry:   saga.Retry{Min: time.Minute, Max: 5 * time.Minute},
		},
	},
}

func (a *Asked) answered(reply ai.Completion) { a.Answer = &reply }

func (a Asked) result() ai.Completion {
	if a.Answer == nil {
		return ai.Completion{}
	}
	return *a.Answer
}

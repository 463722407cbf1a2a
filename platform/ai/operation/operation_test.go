package operation_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/ai/operation"
	"github.com/countermand/countermand/platform/saga"
)

const id = "018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f"

func TestAnOperationEndsAsItsCallDoes(t *testing.T) {
	t.Parallel()
	program, err := operation.Saga.Compile()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		reply  saga.ReplyInput
		status saga.Status
	}{
		"answered": {saga.ReplyInput{Data: []byte(`{"call_id":"c","output":{"a":1},"attempts":1}`)}, saga.Completed},
		"rejected": {saga.ReplyInput{Rejection: &events.Rejection{Code: ai.BudgetExhausted, Message: "no money"}}, saga.Compensated},
	} {
		now := time.Now()
		request, err := json.Marshal(ai.CompleteRequest{Caller: ai.Caller{Tenant: "acme"}, Prompt: "words"})
		if err != nil {
			t.Fatal(err)
		}
		in, effects, _ := program.Decide(saga.Instance{}, saga.Input{Start: &saga.StartInput{ID: id, Request: request}}, now)
		if len(effects) != 1 {
			t.Fatalf("%s: %d commands", name, len(effects))
		}
		test.reply.CommandID = effects[0].ID
		in, _, _ = program.Decide(in, saga.Input{Reply: &test.reply}, now)
		if in.Status != test.status {
			t.Errorf("%s: it is %s, want %s", name, in.Status, test.status)
		}
		var result ai.Completion
		if test.status == saga.Completed && (json.Unmarshal(in.Result, &result) != nil || result.CallID != "c" || string(result.Output) != `{"a":1}`) {
			t.Errorf("%s: the result is %s", name, in.Result)
		}
	}
}

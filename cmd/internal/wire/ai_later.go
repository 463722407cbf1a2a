package wire

import (
	"encoding/json"
	"net/http"

	aievents "github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/route"
)

// betaHeader tells Anthropic which of its betas a request is written for.
const betaHeader = "Anthropic-Beta"

// later makes an operation of a call whose client does not wait for it.
func (a *aiRoute) later(w http.ResponseWriter, r *http.Request, call route.Call) {
	a.accept(w, r, completeRequest(call))
}

// completeRequest is what a saga asks for in place of a client that does not wait.
func completeRequest(call route.Call) aievents.CompleteRequest {
	body := call.Body.Clone()
	body.Delete("stream") // the answer comes as a whole
	body.Delete("stream_options")
	return aievents.CompleteRequest{
		Caller: aievents.Caller(call.Caller), Operation: string(call.Format), Model: call.Model, Body: json.RawMessage(body.Bytes()),
		AnthropicBeta: call.Header.Values(betaHeader),
	}
}

// promptLater makes an operation of a prompt whose client does not wait for it.
func (a *aiRoute) promptLater(w http.ResponseWriter, r *http.Request, caller ai.Caller, reference string, variables []byte) {
	a.accept(w, r, aievents.CompleteRequest{Caller: aievents.Caller(caller), Operation: "chat", Prompt: reference, Variables: json.RawMessage(variables)})
}

func (a *aiRoute) accept(w http.ResponseWriter, r *http.Request, request aievents.CompleteRequest) {
	data, err := json.Marshal(request)
	if err != nil { // the variables are no JSON
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a.gateway.Accept(w, r, "ai", aievents.RequestCompletion.Type(), data)
}

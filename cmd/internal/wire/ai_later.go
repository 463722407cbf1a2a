package wire

import (
	"encoding/json"
	"net/http"

	aievents "github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/route"
)

// later makes an operation of a call whose client does not wait for it.
func (a *aiRoute) later(w http.ResponseWriter, r *http.Request, call route.Call) {
	body := call.Body.Clone()
	body.Delete("stream") // the answer comes as a whole
	body.Delete("stream_options")
	a.accept(w, r, aievents.CompleteRequest{
		Caller: aievents.Caller(call.Caller), Operation: string(call.Format), Model: call.Model, Body: json.RawMessage(body.Bytes()),
	})
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

package route

import (
	"math"
	"net/http"
	"strconv"

	"github.com/countermand/countermand/platform/ai/upstream"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/anthropic"
	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/openai"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

// format is how clients of a format are told of what is not an answer of a model.
type format struct {
	appendError func([]byte, *wire.Error) []byte
	// errorEvent appends the last event of an answer that broke off.
	errorEvent func([]byte, *wire.Error) []byte
	model      func(upstream.ModelInfo) any
	modelList  func([]any) any
}

var (
	ofOpenAI = &format{
		appendError: openai.AppendError,
		errorEvent: func(dst []byte, e *wire.Error) []byte {
			return sse.Append(dst, "", openai.AppendError(nil, e))
		},
		model: func(m upstream.ModelInfo) any {
			return map[string]any{"id": m.Name, "object": "model", "created": 0, "owned_by": m.OwnedBy}
		},
		modelList: func(list []any) any { return map[string]any{"object": "list", "data": list} },
	}
	ofResponses = &format{
		appendError: openai.AppendError,
		errorEvent: func(dst []byte, e *wire.Error) []byte {
			return sse.Append(dst, "error", []byte(`{"type":"error","code":`+body.Quote(e.Code)+`,"message":`+body.Quote(e.Message)+`,"param":null}`))
		},
		model: ofOpenAI.model, modelList: ofOpenAI.modelList,
	}
	ofAnthropic = &format{
		appendError: anthropic.AppendError,
		errorEvent: func(dst []byte, e *wire.Error) []byte {
			return sse.Append(dst, "error", anthropic.AppendError(nil, e))
		},
		model: func(m upstream.ModelInfo) any {
			return map[string]any{"id": m.Name, "type": "model", "display_name": m.Name, "created_at": "1970-01-01T00:00:00Z"}
		},
		modelList: func(list []any) any {
			page := map[string]any{"data": list, "has_more": false, "first_id": nil, "last_id": nil}
			if len(list) > 0 {
				page["first_id"], page["last_id"] = list[0].(map[string]any)["id"], list[len(list)-1].(map[string]any)["id"]
			}
			return page
		},
	}
	formats = map[wire.Format]*format{
		wire.Chat: ofOpenAI, wire.Embeddings: ofOpenAI, wire.Responses: ofResponses, wire.Messages: ofAnthropic,
	}
)

// formatOf returns the format of a request: by its path, or else guessed from its
// header.
func formatOf(r *http.Request) *format {
	if r.URL.Path == Prefix+"messages" || r.Header.Get("Anthropic-Version") != "" {
		return ofAnthropic
	}
	return ofOpenAI
}

// fail answers with an error.
func (f *format) fail(w http.ResponseWriter, e *wire.Error) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	w.WriteHeader(e.Status)
	_, _ = w.Write(f.appendError(nil, e)) // the client is gone when this fails
}

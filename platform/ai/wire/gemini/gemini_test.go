package gemini_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/anthropic"
	"github.com/countermand/countermand/platform/ai/wire/gemini"
	"github.com/countermand/countermand/platform/ai/wire/wiretest"
)

func TestChatBecomesContents(t *testing.T) {
	in := `{"model":"v","max_tokens":7,"temperature":0.5,"stop":["A"],"tool_choice":{"type":"function","function":{"name":"f"}},"safetySettings":[1],
	 "generationConfig":{"mediaResolution":"LOW","candidateCount":8,"maxOutputTokens":100000},
	 "response_format":{"type":"json_schema","json_schema":{"schema":{"type":"object"}}},
	 "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}],
	 "messages":[{"role":"system","content":"be kind"},{"role":"user","content":[{"type":"text","text":"see"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]},
	  {"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{\"a\":1}"},"extra_content":{"google":{"thought_signature":"sig"}}}]},
	  {"role":"tool","tool_call_id":"1","content":"warm"}]}`
	want := `{"systemInstruction":{"parts":[{"text":"be kind"}]},"safetySettings":[1],
	 "contents":[{"role":"user","parts":[{"text":"see"},{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]},
	  {"role":"model","parts":[{"functionCall":{"name":"f","args":{"a":1}},"thoughtSignature":"sig"}]},
	  {"role":"user","parts":[{"functionResponse":{"name":"f","response":{"output":"warm"}}}]}],
	 "tools":[{"functionDeclarations":[{"name":"f","description":"d","parametersJsonSchema":{"type":"object"}}]}],
	 "toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["f"]}},
	 "generationConfig":{"maxOutputTokens":7,"temperature":0.5,"stopSequences":["A"],"responseMimeType":"application/json","responseJsonSchema":{"type":"object"},"mediaResolution":"LOW"}}`
	x, err := gemini.Chat(wiretest.Object(t, in), wire.Options{Model: "g-1"})
	if err != nil || x.Path != "/models/g-1:generateContent" {
		t.Fatal(x, err)
	}
	wiretest.SameJSON(t, "request", x.Body, want)
	for _, refused := range []string{`{"n":2}`, `{"messages":[{"role":"tool","tool_call_id":"9","content":""}]}`, `{"messages":[{"role":"x"}]}`} {
		if _, err := gemini.Chat(wiretest.Object(t, refused), wire.Options{Model: "m"}); err == nil {
			t.Errorf("%s: taken", refused)
		}
	}
}

const answer = `{"responseId":"r1","modelVersion":"g-1.5","candidates":[{"content":{"parts":[{"text":"hm","thought":true},{"text":"hel"},{"text":"lo"},
 {"functionCall":{"id":"c1","name":"f","args":{"a":1}},"thoughtSignature":"sig"}]},"finishReason":"STOP"}],
 "usageMetadata":{"promptTokenCount":10,"cachedContentTokenCount":4,"candidatesTokenCount":5,"thoughtsTokenCount":3}}`

func TestAnswersBecomeCompletions(t *testing.T) {
	x, err := gemini.Chat(wiretest.Object(t, `{"messages":[]}`), wire.Options{Model: "g"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := x.Response([]byte(answer))
	if err != nil {
		t.Fatal(err)
	}
	wiretest.SameJSON(t, "choice", []byte(gjson.GetBytes(got, "choices.0").Raw), `{"index":0,"logprobs":null,"finish_reason":"tool_calls","message":{"role":"assistant",
	 "content":"hello","refusal":null,"reasoning_content":"hm","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"},
	 "extra_content":{"google":{"thought_signature":"sig"}}}]}}`)
	if usage, ok := x.Usage([]byte(answer)); !ok || usage != (ai.Usage{Input: 6, CachedInput: 4, Output: 5, Reasoning: 3}) {
		t.Errorf("usage is %+v", usage)
	}
	blocked, err := x.Response([]byte(`{"promptFeedback":{"blockReason":"SAFETY"}}`))
	if err != nil || gjson.GetBytes(blocked, "choices.0.finish_reason").Str != "content_filter" {
		t.Errorf("a blocked prompt: %s, %v", blocked, err)
	}
	if _, err := x.Response([]byte(`{}`)); err == nil {
		t.Error("an answer without a candidate is taken")
	}
}

const parts = `data: {"responseId":"r1","candidates":[{"content":{"parts":[{"text":"hel"}]}}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":1}}

data: {"candidates":[{"content":{"parts":[{"text":"lo"},{"functionCall":{"name":"f","args":{"a":1}}}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":5}}

`

func TestPartsBecomeChunksAndEvents(t *testing.T) {
	x, err := gemini.Chat(wiretest.Object(t, `{"messages":[]}`), wire.Options{Model: "g", Stream: true, UsageAsked: true})
	if err != nil || x.Path != "/models/g:streamGenerateContent?alt=sse" {
		t.Fatal(x, err)
	}
	s := x.Stream()
	events, err := wiretest.Play(t, s, parts)
	if err != nil || !s.Ended() {
		t.Fatal(err)
	}
	var text, calls strings.Builder
	for _, e := range events {
		delta := gjson.GetBytes(e.Data, "choices.0.delta")
		text.WriteString(delta.Get("content").Str)
		calls.WriteString(delta.Get("tool_calls.0.function.name").Str + delta.Get("tool_calls.0.function.arguments").Str)
	}
	if text.String() != "hello" || calls.String() != `f{"a":1}` || string(events[len(events)-1].Data) != "[DONE]" {
		t.Errorf("%q, %q, then %s", text.String(), calls.String(), events[len(events)-1].Data)
	}
	if usage, ok := s.Usage(); !ok || usage.Output != 5 {
		t.Errorf("usage is %+v, %v", usage, ok)
	}
	cut := x.Stream()
	if _, err := wiretest.Play(t, cut, parts[:strings.Index(parts, "\n\n")+2]); err != nil || cut.Ended() {
		t.Errorf("a cut stream: ended %v, %v", cut.Ended(), err)
	}

	// A client of messages reaches it through chat.
	y, err := anthropic.OverChat(wiretest.Object(t, `{"model":"v","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}`), wire.Options{Model: "g", Stream: true}, gemini.Chat)
	if err != nil {
		t.Fatal(err)
	}
	s = y.Stream()
	if events, err = wiretest.Play(t, s, parts); err != nil || !s.Ended() || events[len(events)-1].Name != "message_stop" {
		t.Errorf("%q, %v", events, err)
	}
}

func TestErrorsAreRead(t *testing.T) {
	x, err := gemini.Chat(wiretest.Object(t, `{"messages":[]}`), wire.Options{Model: "g", Stream: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = wiretest.Play(t, x.Stream(), "data: {\"error\":{\"code\":429,\"message\":\"slow down\",\"status\":\"RESOURCE_EXHAUSTED\"}}\n\n")
	var failed *wire.Error
	if !errors.As(err, &failed) || failed.Status != 429 || failed.Code != "resource_exhausted" {
		t.Errorf("%+v", err)
	}
	if e := gemini.ReadError(500, []byte(`[{"error":{"message":"m"}}]`)); e.Message != "m" || e.Status != 500 {
		t.Errorf("%+v", e)
	}
}

func TestEmbeddings(t *testing.T) {
	x, err := gemini.Embeddings(wiretest.Object(t, `{"input":["a","b"],"dimensions":2}`), wire.Options{Model: "e"})
	if err != nil {
		t.Fatal(err)
	}
	wiretest.SameJSON(t, "request", x.Body, `{"requests":[{"model":"models/e","content":{"parts":[{"text":"a"}]},"outputDimensionality":2},
	 {"model":"models/e","content":{"parts":[{"text":"b"}]},"outputDimensionality":2}]}`)
	got, err := x.Response([]byte(`{"embeddings":[{"values":[0.5,1]},{"values":[1,2]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	wiretest.SameJSON(t, "answer", got, `{"object":"list","model":"e","data":[{"object":"embedding","index":0,"embedding":[0.5,1]},{"object":"embedding","index":1,"embedding":[1,2]}],"usage":{"prompt_tokens":0,"total_tokens":0}}`)
}

package anthropic_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/simulated"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/anthropic"
	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/openai"
	"github.com/countermand/countermand/platform/ai/wire/wiretest"
)

func TestChatBecomesMessages(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"texts and settings": {
			`{"model":"v","messages":[{"role":"system","content":"be kind"},{"role":"user","content":"hi"}],"temperature":1.7,"top_p":0.5,
			  "stop":"END","user":"u1","seed":3,"thinking":{"type":"adaptive"},"n":1}`,
			`{"model":"m","max_tokens":4096,"system":[{"type":"text","text":"be kind"}],"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}],
			  "temperature":1,"top_p":0.5,"stop_sequences":["END"],"metadata":{"user_id":"u1"},"thinking":{"type":"adaptive"}}`,
		},
		"parts": {
			`{"model":"v","max_tokens":5,"messages":[{"role":"user","content":[{"type":"text","text":"see","cache_control":{"type":"ephemeral"}},
			  {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}},{"type":"image_url","image_url":{"url":"https://x/y.png"}},
			  {"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,BBBB"}}]}]}`,
			`{"model":"m","max_tokens":5,"messages":[{"role":"user","content":[{"type":"text","text":"see","cache_control":{"type":"ephemeral"}},
			  {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}},{"type":"image","source":{"type":"url","url":"https://x/y.png"}},
			  {"type":"document","title":"a.pdf","source":{"type":"base64","media_type":"application/pdf","data":"BBBB"}}]}]}`,
		},
		"tools and their results in one turn": {
			`{"model":"v","max_completion_tokens":5,"parallel_tool_calls":false,"tool_choice":"required",
			  "tools":[{"type":"function","function":{"name":"f","description":"d","strict":true,"parameters":{"type":"object"}}}],
			  "messages":[{"role":"user","content":"go"},
			   {"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},{"id":"2","type":"function","function":{"name":"f","arguments":""}}]},
			   {"role":"tool","tool_call_id":"1","content":"one"},{"role":"tool","tool_call_id":"2","content":"two"},{"role":"user","content":"and?"}]}`,
			`{"model":"m","max_tokens":5,"tool_choice":{"type":"any","disable_parallel_tool_use":true},
			  "tools":[{"name":"f","description":"d","strict":true,"input_schema":{"type":"object"}}],
			  "messages":[{"role":"user","content":[{"type":"text","text":"go"}]},
			   {"role":"assistant","content":[{"type":"tool_use","id":"1","name":"f","input":{"a":1}},{"type":"tool_use","id":"2","name":"f","input":{}}]},
			   {"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":[{"type":"text","text":"one"}]},
			    {"type":"tool_result","tool_use_id":"2","content":[{"type":"text","text":"two"}]},{"type":"text","text":"and?"}]}]}`,
		},
		"a schema": {
			`{"model":"v","max_tokens":5,"messages":[],"output_config":{"effort":"low"},"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object"}}}}`,
			`{"model":"m","max_tokens":5,"messages":null,"output_config":{"effort":"low","format":{"type":"json_schema","schema":{"type":"object"}}}}`,
		},
	} {
		x, err := anthropic.Chat(wiretest.Object(t, tt.in), wire.Options{Model: "m", OutputMax: 4096})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wiretest.SameJSON(t, name, x.Body, tt.want)
	}
	for _, refused := range []string{
		`{"model":"v","n":2,"messages":[]}`, `{"model":"v","functions":[],"messages":[]}`,
		`{"model":"v","messages":[{"role":"robot","content":"x"}]}`,
		`{"model":"v","messages":[{"role":"user","content":[{"type":"input_audio"}]}]}`,
		`{"model":"v","messages":[{"role":"assistant","tool_calls":[{"function":{"arguments":"{"}}]}]}`,
		`{"model":"v","messages":[],"response_format":{"type":"json_object"}}`,
	} {
		var invalid *wire.Error
		if _, err := anthropic.Chat(wiretest.Object(t, refused), wire.Options{Model: "m"}); !errors.As(err, &invalid) || invalid.Status != 400 {
			t.Errorf("%s: %v", refused, err)
		}
	}
}

func TestMessagesBecomeChat(t *testing.T) {
	in := `{"model":"v","max_tokens":9,"system":[{"type":"text","text":"be kind"},{"type":"text","text":"and brief"}],"top_k":4,"temperature":0.2,
	 "stop_sequences":["A"],"metadata":{"user_id":"u"},"tool_choice":{"type":"tool","name":"f","disable_parallel_tool_use":true},"x_new":{"a":1},
	 "tools":[{"name":"f","description":"d","input_schema":{"type":"object"}}],
	 "messages":[{"role":"user","content":"go"},
	  {"role":"assistant","content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"ok"},{"type":"tool_use","id":"1","name":"f","input":{"a":1}}]},
	  {"role":"user","content":[{"type":"tool_result","tool_use_id":"1","is_error":true,"content":[{"type":"text","text":"no"}]},
	   {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}]}`
	want := `{"model":"m","max_tokens":9,"temperature":0.2,"stop":["A"],"user":"u","parallel_tool_calls":false,"x_new":{"a":1},
	 "tool_choice":{"type":"function","function":{"name":"f"}},
	 "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}],
	 "messages":[{"role":"system","content":"be kind\n\nand brief"},{"role":"user","content":"go"},
	  {"role":"assistant","content":"ok","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
	  {"role":"tool","tool_call_id":"1","content":"Error: no"},
	  {"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}`
	x, err := anthropic.OverChat(wiretest.Object(t, in), wire.Options{Model: "m"}, openai.Chat)
	if err != nil {
		t.Fatal(err)
	}
	wiretest.SameJSON(t, "request", x.Body, want)
	x, err = anthropic.OverChat(wiretest.Object(t, `{"model":"v","max_tokens":9,"messages":[]}`), wire.Options{Model: "m", CompletionTokens: true}, openai.Chat)
	if err != nil || gjson.GetBytes(x.Body, "max_completion_tokens").Int() != 9 || gjson.GetBytes(x.Body, "max_tokens").Exists() {
		t.Errorf("%s, %v", x.Body, err)
	}
	for _, refused := range []string{
		`{"model":"v","messages":[],"tools":[{"type":"web_search_20250305","name":"s"}]}`,
		`{"model":"v","messages":[{"role":"user","content":[{"type":"search_result"}]}]}`,
	} {
		if _, err := anthropic.OverChat(wiretest.Object(t, refused), wire.Options{Model: "m"}, openai.Chat); err == nil {
			t.Errorf("%s: taken", refused)
		}
	}
}

// ask sends an exchange to the simulated provider and returns what the client gets.
func ask(t *testing.T, x *wire.Exchange, streamed bool) (string, wire.Stream) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://sim/v1"+x.Path, strings.NewReader(string(x.Body)))
	if err != nil {
		t.Fatal(err)
	}
	response, err := simulated.New().RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("%d %s %v", response.StatusCode, data, err)
	}
	if !streamed {
		if x.Response != nil {
			if data, err = x.Response(data); err != nil {
				t.Fatal(err)
			}
		}
		return string(data), nil
	}
	s := x.Stream()
	events, err := wiretest.Play(t, s, string(data))
	if err != nil || !s.Ended() {
		t.Fatalf("ended %v, %v", s.Ended(), err)
	}
	return wiretest.Raw(events), s
}

// said is what an answer says, whatever its format and whether it came in parts.
type said struct {
	text, finish string
	calls        [3]string
	usage        ai.Usage
}

func fromChat(t *testing.T, answer string, streamed bool) (s said) {
	t.Helper()
	if !streamed {
		s.usage, _ = openai.ChatUsage([]byte(answer))
		choice := gjson.Get(answer, "choices.0")
		s.text, s.finish = choice.Get("message.content").Str, choice.Get("finish_reason").Str
		for i, call := range choice.Get("message.tool_calls").Array() {
			s.calls[i] = call.Get("id").Str + call.Get("function.name").Str + call.Get("function.arguments").Str
		}
		return s
	}
	for i, e := range wiretest.Events(t, []byte(answer)) {
		if e.Data == nil || string(e.Data) == "[DONE]" {
			continue
		}
		if usage, ok := openai.ChatUsage(e.Data); ok {
			s.usage = usage
		}
		choice := gjson.GetBytes(e.Data, "choices.0")
		if i == 0 && choice.Get("delta.role").Str != "assistant" {
			t.Errorf("the first chunk has no role: %s", e.Data)
		}
		if choice.Exists() && !choice.Get("finish_reason").Exists() {
			t.Errorf("a chunk has no finish_reason: %s", e.Data)
		}
		s.text += choice.Get("delta.content").Str
		s.finish += choice.Get("finish_reason").Str
		for _, call := range choice.Get("delta.tool_calls").Array() {
			s.calls[call.Get("index").Int()] += call.Get("id").Str + call.Get("function.name").Str + call.Get("function.arguments").Str
		}
	}
	return s
}

var finishes = map[string]string{"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls"}

func fromMessages(t *testing.T, answer string, streamed bool) (s said) {
	t.Helper()
	calls := 0
	if !streamed {
		s.usage, _ = anthropic.Usage([]byte(answer))
		s.finish = finishes[gjson.Get(answer, "stop_reason").Str]
		for _, block := range gjson.Get(answer, "content").Array() {
			if block.Get("type").Str == "text" {
				s.text += block.Get("text").Str
				continue
			}
			s.calls[calls] = block.Get("id").Str + block.Get("name").Str + block.Get("input").Raw
			calls++
		}
		return s
	}
	open := int64(-1)
	for _, e := range wiretest.Events(t, []byte(answer)) {
		event := gjson.ParseBytes(e.Data)
		if index := event.Get("index"); index.Exists() && e.Name != "content_block_start" && index.Int() != open {
			t.Errorf("%s for block %d while %d is open", e.Name, index.Int(), open)
		}
		switch e.Name {
		case "content_block_start":
			open = event.Get("index").Int()
			if event.Get("content_block.type").Str == "tool_use" {
				s.calls[calls] = event.Get("content_block.id").Str + event.Get("content_block.name").Str
				calls++
			}
		case "content_block_delta":
			s.text += event.Get("delta.text").Str
			if part := event.Get("delta.partial_json").Str; part != "" {
				s.calls[calls-1] += part
			}
		case "message_delta":
			s.finish = finishes[event.Get("delta.stop_reason").Str]
			s.usage.Input, s.usage.CachedInput = event.Get("usage.input_tokens").Int(), event.Get("usage.cache_read_input_tokens").Int()
			s.usage.Output = event.Get("usage.output_tokens").Int()
		}
	}
	return s
}

// What a client hears does not depend on which of the two formats it speaks, nor on
// which the upstream speaks, nor on whether the answer comes in parts.
func TestBothFormatsSayTheSame(t *testing.T) {
	const tools = `"tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}},
		{"type":"function","function":{"name":"now","parameters":{"type":"object","properties":{}}}}]`
	for name, request := range map[string]string{
		"text":           `{"model":"sim-echo","max_tokens":100,"messages":[{"role":"user","content":"two plain words [[sim cached=3]]"}]`,
		"too long":       `{"model":"sim-echo","max_tokens":2,"messages":[{"role":"user","content":"one two three four"}]`,
		"parallel tools": `{"model":"sim-tools","max_tokens":100,"messages":[{"role":"user","content":"Zürich"}],` + tools,
		"a schema":       `{"model":"sim-echo","max_tokens":100,"messages":[{"role":"user","content":"all good"}],"response_format":{"type":"json_schema","json_schema":{"name":"s","schema":{"type":"object","properties":{"mood":{"enum":["bad","good"]}}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			var want said
			for i, streamed := range []bool{false, true} {
				text := request + `}`
				if streamed {
					text = request + `,"stream":true,"stream_options":{"include_usage":true}}`
				}
				options := wire.Options{Model: gjson.Get(text, "model").Str, Stream: streamed, UsageAsked: true}
				native, err := openai.Chat(wiretest.Object(t, text), options)
				if err != nil {
					t.Fatal(err)
				}
				answer, _ := ask(t, native, streamed)
				heard := fromChat(t, answer, streamed)
				if i == 0 {
					if want = heard; want.finish == "" || want.text == "" && want.calls[1] == "" {
						t.Fatalf("nothing was said: %+v", want)
					}
				}
				over, err := anthropic.Chat(wiretest.Object(t, text), options)
				if err != nil {
					t.Fatal(err)
				}
				translated, s := ask(t, over, streamed)
				messages, err := body.Parse(over.Body)
				if err != nil {
					t.Fatal(err)
				}
				back, err := anthropic.OverChat(messages, options, openai.Chat)
				if err != nil {
					t.Fatal(err)
				}
				again, _ := ask(t, back, streamed)
				for how, got := range map[string]said{
					"chat": heard, "chat over messages": fromChat(t, translated, streamed), "messages over chat": fromMessages(t, again, streamed),
				} {
					if name == "parallel tools" { // tools are written, so counted, in each format's own way
						got.usage.Input = want.usage.Input
					}
					if got != want {
						t.Errorf("%s, in parts %v:\ngot  %+v\nwant %+v", how, streamed, got, want)
					}
				}
				if s != nil {
					if told, ok := s.Usage(); !ok || told.Output != want.usage.Output {
						t.Errorf("the stream tells %+v, %v", told, ok)
					}
				}
			}
		})
	}
}

// Chunks of several tool calls may come mixed, and text between them.
func TestMixedToolCallsBecomeBlocksInARow(t *testing.T) {
	chunk := func(delta string) string {
		return `data: {"id":"c","model":"m","choices":[{"index":0,"delta":` + delta + `,"finish_reason":null}]}` + "\n\n"
	}
	call := func(index, id, name, arguments string) string {
		return chunk(`{"tool_calls":[{"index":` + index + `,"id":"` + id + `","function":{"name":"` + name + `","arguments":"` + arguments + `"}}]}`)
	}
	x, err := anthropic.OverChat(wiretest.Object(t, `{"model":"m","messages":[]}`), wire.Options{Model: "m", Stream: true}, openai.Chat)
	if err != nil {
		t.Fatal(err)
	}
	s := x.Stream()
	events, err := wiretest.Play(t, s, chunk(`{"role":"assistant","content":"a"}`)+call("0", "1", "f", "")+call("1", "2", "g", "{")+
		call("0", "", "", "{}")+chunk(`{"content":"b"}`)+call("1", "", "", "}")+
		`data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}`+"\n\ndata: [DONE]\n\n")
	if err != nil || !s.Ended() {
		t.Fatal(err)
	}
	if got, want := fromMessages(t, wiretest.Raw(events), true), (said{text: "ab", finish: "tool_calls", calls: [3]string{"1f{}", "2g{}"}}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestStreamsOfMessagesPass(t *testing.T) {
	x, err := anthropic.Messages(wiretest.Object(t, `{"model":"v","max_tokens":1,"new":1.50}`), wire.Options{Model: "m", Stream: true})
	if err != nil || string(x.Body) != `{"model":"m","max_tokens":1,"new":1.50}` || x.Header.Get("Anthropic-Version") == "" {
		t.Fatalf("%s, %v, %v", x.Body, x.Header, err)
	}
	const in = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":2,\"output_tokens\":1}}}\n\n" +
		"event: new_thing\ndata: {\"type\":\"new_thing\",\"n\":1.50}\n\n"
	s := x.Stream()
	events, err := wiretest.Play(t, s, in)
	if err != nil || string(events[0].Raw)+string(events[1].Raw) != in || s.Ended() {
		t.Errorf("%q, ended %v, %v", events, s.Ended(), err)
	}
	if _, ok := s.Usage(); ok {
		t.Error("a stream that was cut tells its usage")
	}
	_, err = wiretest.Play(t, s, "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":9}}\n\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\"}}\n\n")
	var failed *wire.Error
	if told, ok := s.Usage(); !ok || told != (ai.Usage{Input: 5, CachedInput: 2, Output: 9}) || !errors.As(err, &failed) || failed.Status != 503 {
		t.Errorf("%+v, %v, %v", told, ok, err)
	}
	wiretest.SameJSON(t, "error", anthropic.AppendError(nil, failed), `{"type":"error","error":{"type":"overloaded_error","message":"busy","code":"overloaded_error"}}`)
}

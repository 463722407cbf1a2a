package openai_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/openai"
	"github.com/countermand/countermand/platform/ai/wire/wiretest"
)

func TestRequestsPassButForModelAndUsage(t *testing.T) {
	for name, tt := range map[string]struct {
		in      string
		options wire.Options
		want    string
	}{
		"nothing to change": {
			`{ "model":"m", "x_new":[1.0,{"y":null}],"messages":[] }`,
			wire.Options{Model: "m"},
			`{ "model":"m", "x_new":[1.0,{"y":null}],"messages":[] }`,
		},
		"the model": {
			`{"x_new":1e2,"model":"virtual"}`, wire.Options{Model: "real"}, `{"x_new":1e2,"model":"real"}`,
		},
		"the bound of the output, by the name that the upstream knows": {
			`{"model":"m","max_completion_tokens":7}`, wire.Options{Model: "m"}, `{"model":"m","max_tokens":7}`,
		},
		"the larger bound of two": {
			`{"model":"m","max_tokens":3,"max_completion_tokens":7}`, wire.Options{Model: "m"}, `{"model":"m","max_tokens":7}`,
		},
		"a bound by its newer name": {
			`{"model":"m","max_completion_tokens":7}`, wire.Options{Model: "m", CompletionTokens: true}, `{"model":"m","max_completion_tokens":7}`,
		},
		"the usage": {
			`{"model":"m","stream":true}`,
			wire.Options{Model: "m", Stream: true},
			`{"model":"m","stream":true,"stream_options":{"include_usage":true}}`,
		},
		"the usage beside other wishes": {
			`{"model":"m","stream":true,"stream_options":{"include_obfuscation":false,"include_usage":false}}`,
			wire.Options{Model: "m", Stream: true},
			`{"model":"m","stream":true,"stream_options":{"include_obfuscation":false,"include_usage":true}}`,
		},
		"the usage that was asked for": {
			`{"model":"m","stream_options":{ "include_usage": true }}`,
			wire.Options{Model: "m", Stream: true},
			`{"model":"m","stream_options":{ "include_usage": true }}`,
		},
	} {
		x, err := openai.Chat(wiretest.Object(t, tt.in), tt.options)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(x.Body); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, tt.want)
		}
	}
}

func stream(t *testing.T, usageAsked bool) wire.Stream {
	t.Helper()
	x, err := openai.Chat(wiretest.Object(t, `{"model":"m"}`), wire.Options{Model: "m", Stream: true, UsageAsked: usageAsked})
	if err != nil {
		t.Fatal(err)
	}
	return x.Stream()
}

const (
	first    = `{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}`
	text     = `{"id":"c","new":{"a":1.50},"choices":[{"index":0,"delta":{"content":"say \"usage\" and \"error\""},"finish_reason":null}]}`
	last     = `{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`
	usage    = `{"id":"c","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}`
	withNull = `{"id":"c","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}],"usage":null}`
)

func frames(data ...string) string {
	var b strings.Builder
	for _, d := range data {
		fmt.Fprintf(&b, "data: %s\n\n", d)
	}
	return b.String()
}

func TestStreamsPassFrameByFrame(t *testing.T) {
	all := frames(first, text, last, usage, "[DONE]")
	for _, asked := range []bool{true, false} {
		s := stream(t, asked)
		events, err := wiretest.Play(t, s, all)
		if err != nil {
			t.Fatal(err)
		}
		got, want := wiretest.Raw(events), all
		if !asked {
			want = frames(first, text, last, "[DONE]")
		}
		if got != want {
			t.Errorf("asked %v:\ngot  %s\nwant %s", asked, got, want)
		}
		if !s.Ended() {
			t.Error("the stream has not ended")
		}
		told, ok := s.Usage()
		if want := (ai.Usage{Input: 6, CachedInput: 4, Output: 3, Reasoning: 2}); !ok || told != want {
			t.Errorf("usage is %+v, %v; want %+v", told, ok, want)
		}
	}
}

func TestUsageIsTakenOut(t *testing.T) {
	inLast := `{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2},"x":1}`
	s := stream(t, false)
	events, err := wiretest.Play(t, s, frames(first, withNull, inLast, "[DONE]"))
	if err != nil || len(events) != 4 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	if got, want := string(events[1].Data), strings.Replace(withNull, `,"usage":null`, "", 1); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	wiretest.SameJSON(t, "the last chunk", events[2].Data, `{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"x":1}`)
	if told, ok := s.Usage(); !ok || told.Output != 2 {
		t.Errorf("usage is %+v, %v", told, ok)
	}
}

// Azure tells what its filters say of a prompt in a chunk without choices.
func TestAChunkWithoutUsageIsNoUsage(t *testing.T) {
	events, err := wiretest.Play(t, stream(t, false), frames(`{"choices":[],"prompt_filter_results":[1],"usage": null}`, first, last, "[DONE]"))
	if err != nil || len(events) != 4 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	wiretest.SameJSON(t, "the first", events[0].Data, `{"choices":[],"prompt_filter_results":[1]}`)
}

func TestWhatProvidersLeaveOutIsPutIn(t *testing.T) {
	s := stream(t, false)
	events, err := wiretest.Play(t, s, frames(
		`{"id":"c","choices":[{"delta":{"content":"a"}}]}`,
		`{"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]}}]}`,
		`{"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"id":"2","function":{"name":"g","arguments":"{"}}]}}]}`,
		`{"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"function":{"arguments":"}"}}]},"finish_reason":null}]}`,
		`{"id":"c","choices":[{"index":1,"delta":{"content":"b"},"finish_reason":null}]}`, "[DONE]"))
	if err != nil || len(events) != 6 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	for i, want := range []string{
		`{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"a"},"finish_reason":null}]}`,
		`{"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"1","function":{"name":"f","arguments":"{}"}}]},"finish_reason":null}]}`,
		`{"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"2","function":{"name":"g","arguments":"{"}}]},"finish_reason":null}]}`,
		`{"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"}"}}]},"finish_reason":null}]}`,
		`{"id":"c","choices":[{"index":1,"delta":{"role":"assistant","content":"b"},"finish_reason":null}]}`,
	} {
		wiretest.SameJSON(t, fmt.Sprint("chunk ", i), events[i].Data, want)
	}
}

func TestACutOrFailedStreamDoesNotEnd(t *testing.T) {
	s := stream(t, false)
	if _, err := wiretest.Play(t, s, frames(first, text)); err != nil || s.Ended() {
		t.Errorf("a cut stream: ended %v, %v", s.Ended(), err)
	}
	if _, ok := s.Usage(); ok || s.Written() == 0 {
		t.Errorf("a cut stream tells a usage, or that nothing was written")
	}
	s = stream(t, false)
	_, err := wiretest.Play(t, s, frames(first, `{"error":{"message":"overloaded","code":503}}`))
	var failed *wire.Error
	if !errors.As(err, &failed) || failed.Status != 503 || failed.Message != "overloaded" || s.Ended() {
		t.Errorf("an error within a stream: %v, ended %v", err, s.Ended())
	}
}

func TestResponsesPass(t *testing.T) {
	x, err := openai.Responses(wiretest.Object(t, `{"model":"v","input":"hi","stream":true}`), wire.Options{Model: "m", Stream: true})
	if err != nil || x.Path != "/responses" {
		t.Fatal(x, err)
	}
	in := "event: response.created\ndata: {\"type\":\"response.created\",\"x\":1}\n\n" +
		"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":7,\"output_tokens\":3,\"output_tokens_details\":{\"reasoning_tokens\":1}}}}\n\n"
	s := x.Stream()
	events, err := wiretest.Play(t, s, in)
	if err != nil || string(events[0].Raw)+string(events[1].Raw) != in || !s.Ended() {
		t.Errorf("%q, ended %v, %v", events, s.Ended(), err)
	}
	if told, ok := s.Usage(); !ok || told != (ai.Usage{Input: 7, Output: 2, Reasoning: 1}) {
		t.Errorf("usage is %+v", told)
	}
}

func TestErrorsBothWays(t *testing.T) {
	body := openai.AppendError(nil, &wire.Error{Status: 429, Code: "budget_exhausted", Message: "no money", Param: "model"})
	wiretest.SameJSON(t, "budget", body, `{"error":{"message":"no money","type":"insufficient_quota","param":"model","code":"budget_exhausted"}}`)
	for text, want := range map[string]wire.Error{
		`{"error":{"message":"m","code":"context_length_exceeded","param":"messages"}}`: {Status: 400, Code: "context_length_exceeded", Param: "messages", Message: "m"},
		`{"error":"plain"}`: {Status: 400, Code: "upstream_error", Message: "plain"},
		`<html>`:            {Status: 400, Code: "upstream_error", Message: "The upstream has answered bad request."},
	} {
		if got := openai.ReadError(400, []byte(text)); *got != want {
			t.Errorf("%s is read as %+v", text, got)
		}
	}
	if got := gjson.GetBytes(openai.AppendError(nil, &wire.Error{Status: 503}), "error.type").Str; got != "server_error" {
		t.Errorf("503 has the type %s", got)
	}
}

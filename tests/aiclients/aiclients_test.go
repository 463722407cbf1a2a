// Package aiclients runs the official clients of AI models against the AI route: what
// they do with an answer is what counts. It is a module of its own, outside the
// workspace, so that nobody who builds the project downloads the clients.
package aiclients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"

	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/observe"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/ai/simulated"
)

// The models that the clients ask for. The upstream of the first speaks the formats of
// OpenAI only, that of the second those of Anthropic only.
var wires = []string{"openai", "anthropic"}

// start serves the AI route in front of the simulated provider, or of an upstream that
// AICLIENTS_UPSTREAM names, and returns its URL.
func start(t testing.TB) string {
	t.Helper()
	upstream := os.Getenv("AICLIENTS_UPSTREAM")
	if upstream == "" {
		server := httptest.NewServer(simulated.New())
		t.Cleanup(server.Close)
		upstream = server.URL
	}
	text := `{version: 1, providers: {
		openai: {wire: openai, base_url: "` + upstream + `/v1", keys: [env:KEY], prices: simulated, responses: true},
		anthropic: {wire: anthropic, base_url: "` + upstream + `/v1", auth: x-api-key, keys: [env:KEY], prices: simulated}},
		deployments: {openai: {provider: openai, model: "*"}, anthropic: {provider: anthropic, model: "*"}},
		models: {"openai/*": {targets: [openai], attempts: 1}, "anthropic/*": {targets: [anthropic], attempts: 1}}}`
	return serve(t, text)
}

// serve serves the AI route with a configuration, and returns its URL.
func serve(t testing.TB, text string) string {
	t.Helper()
	c, err := config.Parse("ai.yaml", []byte(text), config.Sources{LookupEnv: func(string) (string, bool) { return "key", true }})
	if err != nil {
		t.Fatal(err)
	}
	prices, err := price.New(price.Overlay{})
	if err != nil {
		t.Fatal(err)
	}
	observer, err := observe.New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	handler := route.New(route.Config{Keeper: budget.Unkept(prices), Observer: observer}, c)
	t.Cleanup(handler.Close)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL + "/ai"
}

func openaiClient(t testing.TB) openai.Client {
	t.Helper()
	return openaiClientOf(start(t))
}

func openaiClientOf(url string) openai.Client {
	return openai.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("any"), option.WithMaxRetries(0))
}

func anthropicClient(t testing.TB) anthropic.Client {
	t.Helper()
	return anthropic.NewClient(anthropicoption.WithBaseURL(start(t)), anthropicoption.WithAPIKey("any"), anthropicoption.WithMaxRetries(0))
}

func openaiTools() []openai.ChatCompletionToolUnionParam {
	tool := func(name string) openai.ChatCompletionToolUnionParam {
		return openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
			Name: name, Parameters: shared.FunctionParameters{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}},
		})
	}
	return []openai.ChatCompletionToolUnionParam{tool("weather"), tool("traffic")}
}

func ask(model, text string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)}}
}

func TestOpenAIClient(t *testing.T) {
	client := openaiClient(t)
	for _, wire := range wires {
		t.Run(wire+"/chat", func(t *testing.T) {
			got, err := client.Chat.Completions.New(t.Context(), ask(wire+"/sim-echo", "hello there"))
			if err != nil || got.Choices[0].Message.Content != "hello there" || got.Choices[0].FinishReason != "stop" || got.Usage.TotalTokens != 5 {
				t.Errorf("%+v, %v", got, err)
			}
		})
		t.Run(wire+"/streamed, with usage", func(t *testing.T) {
			params := ask(wire+"/sim-echo", "hello there")
			params.StreamOptions.IncludeUsage = openai.Bool(true)
			stream := client.Chat.Completions.NewStreaming(t.Context(), params)
			var all openai.ChatCompletionAccumulator
			for stream.Next() {
				if !all.AddChunk(stream.Current()) {
					t.Fatalf("a chunk does not fit: %s", stream.Current().RawJSON())
				}
			}
			if err := stream.Err(); err != nil || all.Choices[0].Message.Content != "hello there" || all.Choices[0].Message.Role != "assistant" || all.Usage.CompletionTokens != 2 {
				t.Errorf("%+v, %v", all.ChatCompletion, err)
			}
		})
		t.Run(wire+"/parallel streamed tools and their results", func(t *testing.T) {
			params := ask(wire+"/sim-tools", "Zürich")
			params.Tools = openaiTools()
			stream := client.Chat.Completions.NewStreaming(t.Context(), params)
			var all openai.ChatCompletionAccumulator
			for stream.Next() {
				all.AddChunk(stream.Current())
			}
			if err := stream.Err(); err != nil || len(all.Choices) != 1 || all.Choices[0].FinishReason != "tool_calls" {
				t.Fatalf("%+v, %v", all.ChatCompletion, err)
			}
			message := all.Choices[0].Message
			params.Messages = append(params.Messages, message.ToParam())
			for i, name := range []string{"weather", "traffic"} {
				call := message.ToolCalls[i]
				if call.Function.Name != name || call.Function.Arguments != `{"city":"Zürich"}` || call.ID == "" {
					t.Errorf("call %d is %+v", i, call)
				}
				params.Messages = append(params.Messages, openai.ToolMessage(name+" is fine", call.ID))
			}
			got, err := client.Chat.Completions.New(t.Context(), params)
			if err != nil || got.Choices[0].Message.Content != "weather is fine\ntraffic is fine" {
				t.Errorf("%+v, %v", got, err)
			}
		})
		t.Run(wire+"/structured output", func(t *testing.T) {
			params := ask(wire+"/sim-echo", "what a good day")
			params.ResponseFormat.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{
				Name: "mood", Schema: map[string]any{"type": "object", "properties": map[string]any{"mood": map[string]any{"enum": []string{"bad", "good"}}}},
			}}
			got, err := client.Chat.Completions.New(t.Context(), params)
			var answer struct{ Mood string }
			if err != nil || json.Unmarshal([]byte(got.Choices[0].Message.Content), &answer) != nil || answer.Mood != "good" {
				t.Errorf("%+v, %v", got, err)
			}
		})
		t.Run(wire+"/an answer that breaks off", func(t *testing.T) {
			stream := client.Chat.Completions.NewStreaming(t.Context(), ask(wire+"/sim-cut", "a b c d e f"))
			for stream.Next() {
			}
			if stream.Err() == nil {
				t.Error("it looks whole")
			}
		})
		t.Run(wire+"/leaving in the middle", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			stream := client.Chat.Completions.NewStreaming(ctx, ask(wire+"/sim-echo", "[[sim pause=200ms]] a b c d e f g h"))
			if !stream.Next() {
				t.Fatal(stream.Err())
			}
			cancel()
			began := time.Now()
			for stream.Next() {
			}
			if !errors.Is(stream.Err(), context.Canceled) || time.Since(began) > time.Second {
				t.Errorf("%v after %s", stream.Err(), time.Since(began))
			}
		})
		for status, want := range map[int]int{400: 400, 401: 502, 422: 422, 429: 429, 500: 502, 503: 503} {
			t.Run(fmt.Sprint(wire, "/errors/", status), func(t *testing.T) {
				_, err := client.Chat.Completions.New(t.Context(), ask(fmt.Sprint(wire, "/sim-fail-", status), "x"))
				if told, ok := errors.AsType[*openai.Error](err); !ok || told.StatusCode != want || told.Message == "" || told.Code == "" {
					t.Errorf("%v, want %d", err, want)
				}
			})
		}
	}
	t.Run("embeddings", func(t *testing.T) {
		got, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: "openai/sim-embed", Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}}})
		if err != nil || len(got.Data) != 2 || len(got.Data[0].Embedding) == 0 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("responses", func(t *testing.T) {
		params := responses.ResponseNewParams{Model: "openai/sim-echo", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("hello there")}}
		got, err := client.Responses.New(t.Context(), params)
		if err != nil || got.OutputText() != "hello there" {
			t.Errorf("%+v, %v", got, err)
		}
		stream := client.Responses.NewStreaming(t.Context(), params)
		var text strings.Builder
		for stream.Next() {
			text.WriteString(stream.Current().AsResponseOutputTextDelta().Delta)
		}
		if stream.Err() != nil || text.String() != "hello there" {
			t.Errorf("%q, %v", text.String(), stream.Err())
		}
	})
	t.Run("no such model", func(t *testing.T) {
		_, err := client.Chat.Completions.New(t.Context(), ask("none", "x"))
		if told, ok := errors.AsType[*openai.Error](err); !ok || told.StatusCode != http.StatusNotFound || told.Code != "model_not_found" {
			t.Error(err)
		}
	})
}

func message(model, text string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: anthropic.Model(model), MaxTokens: 100, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))},
	}
}

// collect reads a whole stream.
func collect(t *testing.T, client anthropic.Client, params anthropic.MessageNewParams) (all anthropic.Message, err error) {
	t.Helper()
	stream := client.Messages.NewStreaming(t.Context(), params)
	for stream.Next() {
		if err := all.Accumulate(stream.Current()); err != nil {
			t.Fatalf("an event does not fit: %v", err)
		}
	}
	return all, stream.Err()
}

func TestAnthropicClient(t *testing.T) {
	client := anthropicClient(t)
	for _, wire := range wires {
		t.Run(wire+"/message", func(t *testing.T) {
			got, err := client.Messages.New(t.Context(), message(wire+"/sim-echo", "hello there"))
			if err != nil || got.Content[0].Text != "hello there" || got.StopReason != "end_turn" || got.Usage.OutputTokens != 2 {
				t.Errorf("%+v, %v", got, err)
			}
		})
		t.Run(wire+"/streamed", func(t *testing.T) {
			got, err := collect(t, client, message(wire+"/sim-echo", "hello there"))
			if err != nil || got.Content[0].Text != "hello there" || got.StopReason != "end_turn" || got.Usage.OutputTokens != 2 {
				t.Errorf("%+v, %v", got, err)
			}
		})
		t.Run(wire+"/parallel streamed tools and their results", func(t *testing.T) {
			params := message(wire+"/sim-tools", "Zürich")
			for _, name := range []string{"weather", "traffic"} {
				params.Tools = append(params.Tools, anthropic.ToolUnionParam{OfTool: &anthropic.ToolParam{
					Name: name, InputSchema: anthropic.ToolInputSchemaParam{Properties: map[string]any{"city": map[string]any{"type": "string"}}},
				}})
			}
			got, err := collect(t, client, params)
			if err != nil || got.StopReason != "tool_use" || len(got.Content) != 2 {
				t.Fatalf("%+v, %v", got, err)
			}
			params.Messages = append(params.Messages, got.ToParam())
			var results []anthropic.ContentBlockParamUnion
			for i, name := range []string{"weather", "traffic"} {
				call := got.Content[i].AsToolUse()
				if call.Name != name || string(call.Input) != `{"city":"Zürich"}` {
					t.Errorf("call %d is %s", i, call.RawJSON())
				}
				results = append(results, anthropic.NewToolResultBlock(call.ID, name+" is fine", false))
			}
			params.Messages = append(params.Messages, anthropic.NewUserMessage(results...))
			last, err := client.Messages.New(t.Context(), params)
			if err != nil || last.Content[0].Text != "weather is fine\ntraffic is fine" {
				t.Errorf("%+v, %v", last, err)
			}
		})
		t.Run(wire+"/an answer that breaks off", func(t *testing.T) {
			if got, err := collect(t, client, message(wire+"/sim-cut", "a b c d e f")); err == nil {
				t.Errorf("it looks whole: %+v", got)
			}
		})
		for status, want := range map[int]int{400: 400, 401: 502, 429: 429, 500: 502, 529: 503} {
			t.Run(fmt.Sprint(wire, "/errors/", status), func(t *testing.T) {
				_, err := client.Messages.New(t.Context(), message(fmt.Sprint(wire, "/sim-fail-", status), "x"))
				if told, ok := errors.AsType[*anthropic.Error](err); !ok || told.StatusCode != want {
					t.Errorf("%v, want %d", err, want)
				}
			})
		}
	}
	t.Run("models", func(t *testing.T) {
		if _, err := client.Models.List(t.Context(), anthropic.ModelListParams{}); err != nil {
			t.Error(err)
		}
	})
}

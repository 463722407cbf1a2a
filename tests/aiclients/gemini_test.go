package aiclients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/openai/openai-go/v3"
	"google.golang.org/genai"
)

// asked is a request to Gemini, read with the types of Google's own client. What they do
// not know is refused.
type asked struct {
	Path              string                  `json:"-"`
	Key               string                  `json:"-"`
	Contents          []*genai.Content        `json:"contents"`
	SystemInstruction *genai.Content          `json:"systemInstruction"`
	Tools             []*genai.Tool           `json:"tools"`
	ToolConfig        *genai.ToolConfig       `json:"toolConfig"`
	GenerationConfig  *genai.GenerationConfig `json:"generationConfig"`
}

// gemini is an upstream that answers what it is told to, in Google's own types, and
// keeps what it was asked.
type gemini struct {
	t      *testing.T
	mu     sync.Mutex
	answer []*genai.GenerateContentResponse // in parts, or the only one
	last   asked
}

// ServeHTTP answers a request.
func (g *gemini) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		g.t.Error(err)
	}
	g.last = asked{Path: r.URL.RequestURI(), Key: r.Header.Get("X-Goog-Api-Key")}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&g.last); err != nil {
		g.t.Errorf("Google's types do not take %s: %v", data, err)
	}
	streamed := strings.Contains(r.URL.Path, ":stream")
	w.Header().Set("Content-Type", map[bool]string{false: "application/json", true: "text/event-stream"}[streamed])
	for _, part := range g.answer {
		data, err := json.Marshal(part)
		if err != nil {
			g.t.Error(err)
		}
		if streamed {
			data = fmt.Appendf(nil, "data: %s\r\n\r\n", data)
		}
		_, _ = w.Write(data)
	}
}

func calling(id, name string, arguments map[string]any) *genai.Part {
	return &genai.Part{FunctionCall: &genai.FunctionCall{ID: id, Name: name, Args: arguments}, ThoughtSignature: []byte("sig-" + name)}
}

// said is one part of an answer.
func said(reason genai.FinishReason, output int32, parts ...*genai.Part) *genai.GenerateContentResponse {
	r := &genai.GenerateContentResponse{
		ResponseID: "r-1", ModelVersion: "gemini-x",
		Candidates: []*genai.Candidate{{Content: genai.NewContentFromParts(parts, genai.RoleModel), FinishReason: reason}},
	}
	if reason != "" {
		r.UsageMetadata = &genai.GenerateContentResponseUsageMetadata{
			PromptTokenCount: 10, CachedContentTokenCount: 4, CandidatesTokenCount: output, ThoughtsTokenCount: 2, TotalTokenCount: 12 + output,
		}
	}
	return r
}

// The gateway speaks Gemini's own format to providers, and not to clients. A client of
// OpenAI has its tools called by such an upstream, which sees what Google's client would
// have sent.
func TestGeminiUpstream(t *testing.T) {
	upstream := &gemini{t: t}
	server := httptest.NewServer(upstream)
	t.Cleanup(server.Close)
	client := openaiClientOf(serve(t, `{version: 1, providers: {g: {wire: gemini, base_url: "`+server.URL+`/v1beta", auth: x-goog-api-key, keys: [env:KEY], prices: simulated}},
		deployments: {g: {provider: g, model: "*"}}, models: {"gemini/*": {targets: [g], attempts: 1}}}`))
	google, err := genai.NewClient(t.Context(), &genai.ClientConfig{APIKey: "key", Backend: genai.BackendGeminiAPI, HTTPOptions: genai.HTTPOptions{BaseURL: server.URL}})
	if err != nil {
		t.Fatal(err)
	}
	params := ask("gemini/gemini-x", "how is Zürich?")
	params.Messages = append([]openai.ChatCompletionMessageParamUnion{openai.SystemMessage("be brief")}, params.Messages...)
	params.Tools, params.MaxCompletionTokens, params.Temperature = openaiTools(), openai.Int(100), openai.Float(0.5)
	schema := map[string]any{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}}
	config := &genai.GenerateContentConfig{
		SystemInstruction: &genai.Content{Parts: []*genai.Part{genai.NewPartFromText("be brief")}}, MaxOutputTokens: 100, Temperature: genai.Ptr[float32](0.5),
		Tools: []*genai.Tool{{FunctionDeclarations: []*genai.FunctionDeclaration{
			{Name: "weather", ParametersJsonSchema: schema}, {Name: "traffic", ParametersJsonSchema: schema},
		}}},
	}
	contents := []*genai.Content{genai.NewContentFromText("how is Zürich?", genai.RoleUser)}
	// same has Google's client ask the same, and compares what came.
	same := func(t *testing.T, streamed bool) {
		t.Helper()
		ours := upstream.last
		if streamed {
			for _, err := range google.Models.GenerateContentStream(t.Context(), "gemini-x", contents, config) {
				if err != nil {
					t.Fatal(err)
				}
			}
		} else if _, err := google.Models.GenerateContent(t.Context(), "gemini-x", contents, config); err != nil {
			t.Fatal(err)
		}
		if upstream.last.SystemInstruction != nil {
			upstream.last.SystemInstruction.Role = "" // Google's client gives it one, which means nothing
		}
		if theirs := upstream.last; !reflect.DeepEqual(ours, theirs) {
			one, _ := json.Marshal(ours)
			other, _ := json.Marshal(theirs)
			t.Errorf("the gateway asks %s %s\nGoogle's client asks %s %s", ours.Path, one, theirs.Path, other)
		}
	}
	check := func(t *testing.T, c openai.ChatCompletion) {
		t.Helper()
		choice := c.Choices[0]
		if choice.FinishReason != "tool_calls" || len(choice.Message.ToolCalls) != 2 || c.Usage.PromptTokens != 10 || c.Usage.CompletionTokens != 7 ||
			c.Usage.PromptTokensDetails.CachedTokens != 4 || c.Usage.CompletionTokensDetails.ReasoningTokens != 2 {
			t.Fatalf("%+v", c)
		}
		for i, name := range []string{"weather", "traffic"} {
			if call := choice.Message.ToolCalls[i]; call.Function.Name != name || call.Function.Arguments != `{"city":"Zürich"}` || call.ID == "" {
				t.Errorf("call %d is %+v", i, call)
			}
		}
		if choice.Message.ToolCalls[0].ID == choice.Message.ToolCalls[1].ID {
			t.Error("two calls have one id")
		}
	}
	city := map[string]any{"city": "Zürich"}
	calls := []*genai.Part{calling("c-1", "weather", city), calling("", "traffic", city)}

	upstream.answer = []*genai.GenerateContentResponse{said(genai.FinishReasonStop, 5, calls...)}
	got, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("tools at once", func(t *testing.T) {
		check(t, *got)
		same(t, false)
	})
	t.Run("tools in parts", func(t *testing.T) {
		upstream.answer = []*genai.GenerateContentResponse{
			said("", 0, &genai.Part{Text: "let me think", Thought: true}), said("", 0, calls[0]), said(genai.FinishReasonStop, 5, calls[1]),
		}
		params := params
		params.StreamOptions.IncludeUsage = openai.Bool(true)
		stream := client.Chat.Completions.NewStreaming(t.Context(), params)
		var all openai.ChatCompletionAccumulator
		for stream.Next() {
			if !all.AddChunk(stream.Current()) {
				t.Fatalf("a chunk does not fit: %s", stream.Current().RawJSON())
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		check(t, all.ChatCompletion)
		same(t, true)
	})
	t.Run("results of tools", func(t *testing.T) {
		upstream.answer = []*genai.GenerateContentResponse{said(genai.FinishReasonMaxTokens, 1, genai.NewPartFromText("it is"))}
		params.Messages = append(params.Messages, got.Choices[0].Message.ToParam())
		for _, call := range got.Choices[0].Message.ToolCalls {
			params.Messages = append(params.Messages, openai.ToolMessage(`{"fine":true}`, call.ID))
		}
		last, err := client.Chat.Completions.New(t.Context(), params)
		if err != nil || last.Choices[0].Message.Content != "it is" || last.Choices[0].FinishReason != "length" {
			t.Fatalf("%+v, %v", last, err)
		}
		fine := map[string]any{"fine": true}
		contents = append(contents,
			genai.NewContentFromParts([]*genai.Part{
				{FunctionCall: &genai.FunctionCall{Name: "weather", Args: city}}, {FunctionCall: &genai.FunctionCall{Name: "traffic", Args: city}},
			}, genai.RoleModel),
			genai.NewContentFromParts([]*genai.Part{genai.NewPartFromFunctionResponse("weather", fine), genai.NewPartFromFunctionResponse("traffic", fine)}, genai.RoleUser))
		same(t, false)
	})
}

package simulated_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidwall/gjson"
	"go.uber.org/goleak"

	"github.com/countermand/countermand/platform/ai/simulated"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func post(ctx context.Context, t *testing.T, p *simulated.Provider, path, body string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://any"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return p.RoundTrip(r)
}

func ask(t *testing.T, path, body string) (int, string) {
	t.Helper()
	response, err := post(t.Context(), t, simulated.New(), path, body)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(data)
}

func chat(model, text string) string {
	return `{"model":"` + model + `","messages":[{"role":"user","content":"` + text + `"}]}`
}

func TestTheSameRequestGetsTheSameAnswer(t *testing.T) {
	_, first := ask(t, "/v1/chat/completions", chat("sim-words", "x"))
	_, again := ask(t, "/v1/chat/completions", chat("sim-words", "x"))
	_, other := ask(t, "/v1/chat/completions", chat("sim-words", "y"))
	content := func(s string) string { return gjson.Get(s, "choices.0.message.content").Str }
	if content(first) == "" || content(first) != content(again) || content(first) == content(other) {
		t.Errorf("%q, %q, %q", content(first), content(again), content(other))
	}
	if n := gjson.Get(first, "usage.completion_tokens").Int(); n != 40 || len(strings.Fields(content(first))) != 40 {
		t.Errorf("%d tokens for %q", n, content(first))
	}
}

func TestSchemasAreKeptTo(t *testing.T) {
	_, got := ask(t, "/v1/chat/completions", `{"model":"sim-echo","messages":[{"role":"user","content":"I am ANGRY"}],"response_format":{"type":"json_schema","json_schema":{
		"schema":{"type":"object","properties":{"mood":{"enum":["happy","angry"]},"score":{"type":"integer","minimum":1,"maximum":5},"tags":{"type":"array","items":{"$ref":"#/$defs/t"}}},
		"$defs":{"t":{"type":"string"}}}}}}`)
	answer := gjson.Parse(gjson.Get(got, "choices.0.message.content").Str)
	if answer.Get("mood").Str != "angry" || answer.Get("score").Int() != 5 || answer.Get("tags.0").Str != "I am ANGRY" {
		t.Errorf("answered %s", answer.Raw)
	}
}

// A schema that asks for more than anybody could hold gets a sample that ends.
func TestSamplesAreBounded(t *testing.T) {
	wide := `"a":{"$ref":"#/$defs/n"},"b":{"$ref":"#/$defs/n"},"c":{"$ref":"#/$defs/n"},"d":{"$ref":"#/$defs/n"},"e":{"$ref":"#/$defs/n"},"f":{"$ref":"#/$defs/n"},"g":{"$ref":"#/$defs/n"},"h":{"$ref":"#/$defs/n"}`
	for name, schema := range map[string]string{
		"a long list":      `{"type":"array","minItems":1000000000,"items":{"type":"string"}}`,
		"a wide tree":      `{"type":"object","properties":{` + wide + `},"$defs":{"n":{"type":"object","properties":{` + wide + `}}}}`,
		"a path of gjson":  `{"$ref":"#/x` + strings.Repeat("|@tostr", 60) + `","x":"\\"}`,
		"a pointer to one": `{"$ref":"#/$defs/a.b","$defs":{"a.b":{"const":1}}}`,
	} {
		_, got := ask(t, "/v1/chat/completions", `{"model":"sim-echo","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"schema":`+schema+`}}}`)
		if text := gjson.Get(got, "choices.0.message.content").Str; !gjson.Valid(text) || len(text) > 1<<20 {
			t.Errorf("%s: %d bytes, %.200s", name, len(text), got)
		}
		if name == "a pointer to one" && gjson.Get(got, "choices.0.message.content").Str != "1" {
			t.Errorf("%s: %s", name, got)
		}
	}
	many := `["x"` + strings.Repeat(`,"x"`, 2048) + `]`
	if status, got := ask(t, "/v1/embeddings", `{"model":"sim-embed","input":`+many+`}`); status != 400 {
		t.Errorf("2049 texts at once: %d %.200s", status, got)
	}
}

func TestFaultsOnDemand(t *testing.T) {
	for model, want := range map[string]int{"sim-fail-429": 429, "sim-fail-503": 503, "sim-fail-200": 400, "sim-echo": 200} {
		if status, _ := ask(t, "/v1/chat/completions", chat(model, "x")); status != want {
			t.Errorf("%s answers %d, want %d", model, status, want)
		}
	}
	if status, body := ask(t, "/v1/messages", chat("sim-echo", "[[sim fail=529]] x")); status != 529 || gjson.Get(body, "error.type").Str != "overloaded_error" {
		t.Errorf("%d %s", status, body)
	}
	for _, streamed := range []string{"", `,"stream":true`} {
		request := strings.TrimSuffix(chat("sim-cut", "a b c d e f"), "}") + streamed + "}"
		response, err := post(t.Context(), t, simulated.New(), "/v1/chat/completions", request)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if !errors.Is(err, io.ErrUnexpectedEOF) || len(data) == 0 {
			t.Errorf("%s: %q, %v", request, data, err)
		}
	}
}

func TestLatencyAndALeavingClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if status, _ := ask(t, "/v1/chat/completions", chat("sim-slow-250ms", "x")); status != 200 || time.Since(began) != 250*time.Millisecond {
			t.Errorf("%d after %s", status, time.Since(began))
		}
		began = time.Now()
		ask(t, "/v1/chat/completions", strings.TrimSuffix(chat("sim-echo", "[[sim pause=1s]] a b"), "}")+`,"stream":true}`)
		if time.Since(began) != 3*time.Second { // role, a, b, end
			t.Errorf("four parts took %s", time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := post(ctx, t, simulated.New(), "/v1/chat/completions", chat("sim-hang", "x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a provider that hangs: %v", err)
		}
		synctest.Wait()
	})
}

func TestEmbeddings(t *testing.T) {
	_, got := ask(t, "/v1/embeddings", `{"model":"sim-embed","input":["a","b","a"],"dimensions":3}`)
	data := gjson.Get(got, "data")
	if data.Get("0.embedding").Raw != data.Get("2.embedding").Raw || data.Get("0.embedding").Raw == data.Get("1.embedding").Raw || data.Get("0.embedding.#").Int() != 3 {
		t.Errorf("%s", got)
	}
	if _, got = ask(t, "/v1/embeddings", `{"model":"sim-embed","input":"a","encoding_format":"base64"}`); gjson.Get(got, "data.0.embedding").Type != gjson.String {
		t.Errorf("%s", got)
	}
}

func TestOverTheNetworkAsWell(t *testing.T) {
	p := simulated.New()
	server := httptest.NewServer(p)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/v1/responses", strings.NewReader(`{"model":"sim-echo","input":"hi","stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	server.Client().CloseIdleConnections()
	if err != nil || !strings.Contains(string(data), "event: response.completed") || p.Calls() != 1 {
		t.Errorf("%s, %v", data, err)
	}
}

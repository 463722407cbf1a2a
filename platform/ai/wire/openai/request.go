package openai

import (
	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
)

// Chat makes the exchange for a chat with an upstream that speaks this format.
func Chat(o *body.Object, options wire.Options) (*wire.Exchange, error) {
	o = o.Clone()
	if o.Get("model").Str != options.Model {
		o.SetText("model", options.Model)
	}
	if options.Stream {
		askForUsage(o)
	}
	if !options.CompletionTokens {
		renameBound(o)
	}
	return &wire.Exchange{
		Path: "/chat/completions", Body: o.Bytes(), Usage: ChatUsage, Failure: ReadError,
		Stream: func() wire.Stream { return &chatStream{usageAsked: options.UsageAsked} },
	}, nil
}

// renameBound calls the bound of the output what every upstream knows: one that does not
// know its newer name would ignore it, and write and bill what it likes.
func renameBound(o *body.Object) {
	newer := o.Get("max_completion_tokens")
	if newer.Type != gjson.Number {
		return
	}
	if o.Get("max_tokens").Int() < newer.Int() {
		o.Set("max_tokens", newer.Raw)
	}
	o.Delete("max_completion_tokens")
}

func askForUsage(o *body.Object) {
	options := o.Get("stream_options")
	if !options.IsObject() {
		o.Set("stream_options", `{"include_usage":true}`)
		return
	}
	if options.Get("include_usage").Type == gjson.True {
		return
	}
	if inner, err := body.Parse([]byte(options.Raw)); err == nil {
		inner.Set("include_usage", "true")
		o.Set("stream_options", string(inner.Bytes()))
		return
	}
	o.Set("stream_options", `{"include_usage":true}`)
}

// Embeddings makes the exchange for embeddings.
func Embeddings(o *body.Object, options wire.Options) (*wire.Exchange, error) {
	return pass(o, options, "/embeddings", ChatUsage), nil
}

// Responses makes the exchange for responses, with an upstream that has them.
func Responses(o *body.Object, options wire.Options) (*wire.Exchange, error) {
	x := pass(o, options, "/responses", ResponsesUsage)
	x.Stream = func() wire.Stream { return new(responsesStream) }
	return x, nil
}

func pass(o *body.Object, options wire.Options, path string, usage func([]byte) (ai.Usage, bool)) *wire.Exchange {
	o = o.Clone()
	if o.Get("model").Str != options.Model {
		o.SetText("model", options.Model)
	}
	return &wire.Exchange{Path: path, Body: o.Bytes(), Usage: usage, Failure: ReadError}
}

// ChatUsage reads the usage of a chat completion, of a chunk or of embeddings.
func ChatUsage(answer []byte) (ai.Usage, bool) { return readChatUsage(gjson.GetBytes(answer, "usage")) }

func readChatUsage(u gjson.Result) (ai.Usage, bool) {
	if !u.IsObject() {
		return ai.Usage{}, false
	}
	// Every call comes by here, so it is read in one go.
	var input, output, cached, hit, written, reasoning int64
	cachedTold := false
	u.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "prompt_tokens":
			input = value.Int()
		case "completion_tokens":
			output = value.Int()
		case "prompt_cache_hit_tokens": // DeepSeek
			hit = value.Int()
		case "prompt_tokens_details":
			cached, cachedTold = value.Get("cached_tokens").Int(), value.Get("cached_tokens").Exists()
			written = value.Get("cache_creation_tokens").Int() // some that sit before Claude
		case "completion_tokens_details":
			reasoning = value.Get("reasoning_tokens").Int()
		}
		return true
	})
	if !cachedTold {
		cached = hit
	}
	return split(input, cached, written, output, reasoning), true
}

// split takes totals apart into classes that are disjoint.
func split(input, cached, written, output, reasoning int64) ai.Usage {
	cached = min(max(cached, 0), max(input, 0))
	written = min(max(written, 0), max(input-cached, 0))
	if reasoning > output { // xAI counts it beside the output
		output += reasoning
	}
	return ai.Usage{
		Input: input - cached - written, CachedInput: cached, CacheWrite: written, Output: output - reasoning, Reasoning: reasoning,
	}.Sane()
}

// ResponsesUsage reads the usage of a response.
func ResponsesUsage(answer []byte) (ai.Usage, bool) {
	return readResponsesUsage(gjson.GetBytes(answer, "usage"))
}

func readResponsesUsage(u gjson.Result) (ai.Usage, bool) {
	if !u.IsObject() {
		return ai.Usage{}, false
	}
	return split(u.Get("input_tokens").Int(), u.Get("input_tokens_details.cached_tokens").Int(), 0,
		u.Get("output_tokens").Int(), u.Get("output_tokens_details.reasoning_tokens").Int()), true
}

package openai

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

// Completion is a chat completion with one choice, which other formats are turned
// into.
type Completion struct {
	ID        string
	Model     string
	Content   string
	Reasoning string
	ToolCalls []ToolCall
	// Finish is the finish_reason: stop, length, tool_calls or content_filter.
	Finish string
	Usage  ai.Usage
}

// ToolCall is a call of a function.
type ToolCall struct {
	ID        string
	Name      string
	Arguments string
	// Extra is what the provider wants to see again with the call, as JSON; it passes
	// as extra_content.
	Extra string
}

// MarshalJSON writes the completion as a client of chat reads it.
func (c Completion) MarshalJSON() ([]byte, error) {
	message := map[string]any{"role": "assistant", "content": nil, "refusal": nil}
	if c.Content != "" || len(c.ToolCalls) == 0 {
		message["content"] = c.Content
	}
	if c.Reasoning != "" {
		message["reasoning_content"] = c.Reasoning
	}
	if len(c.ToolCalls) > 0 {
		calls := make([]any, len(c.ToolCalls))
		for i, call := range c.ToolCalls {
			one := map[string]any{"id": call.ID, "type": "function", "function": map[string]string{"name": call.Name, "arguments": call.Arguments}}
			if call.Extra != "" {
				one["extra_content"] = json.RawMessage(call.Extra)
			}
			calls[i] = one
		}
		message["tool_calls"] = calls
	}
	return json.Marshal(map[string]any{
		"id": c.ID, "object": "chat.completion", "created": time.Now().Unix(), "model": c.Model,
		"choices": []any{map[string]any{"index": 0, "message": message, "logprobs": nil, "finish_reason": c.Finish}},
		"usage":   json.RawMessage(AppendUsage(nil, c.Usage)),
	})
}

// AppendUsage appends a usage as chat tells it.
func AppendUsage(dst []byte, u ai.Usage) []byte {
	dst = append(dst, `{"prompt_tokens":`...)
	dst = strconv.AppendInt(dst, u.InputTotal(), 10)
	dst = append(dst, `,"completion_tokens":`...)
	dst = strconv.AppendInt(dst, u.OutputTotal(), 10)
	dst = append(dst, `,"total_tokens":`...)
	dst = strconv.AppendInt(dst, u.Total(), 10)
	dst = append(dst, `,"prompt_tokens_details":{"cached_tokens":`...)
	dst = strconv.AppendInt(dst, u.CachedInput, 10)
	if u.CacheWrite > 0 {
		dst = append(dst, `,"cache_creation_tokens":`...)
		dst = strconv.AppendInt(dst, u.CacheWrite, 10)
	}
	dst = append(dst, `},"completion_tokens_details":{"reasoning_tokens":`...)
	dst = strconv.AppendInt(dst, u.Reasoning, 10)
	return append(dst, "}}"...)
}

// Chunks writes the chunks of a chat completion in parts, with one choice. Begin it
// with the id and the name of the model.
type Chunks struct {
	prefix string
	tools  int
}

// Begin appends the first chunk, which holds the role.
func (c *Chunks) Begin(dst []byte, id, model string) []byte {
	c.prefix = `{"id":` + body.Quote(id) + `,"object":"chat.completion.chunk","created":` + strconv.FormatInt(time.Now().Unix(), 10) +
		`,"model":` + body.Quote(model) + `,"choices":[`
	return c.delta(dst, `{"role":"assistant","content":""}`, "null")
}

// Begun reports whether the first chunk was written.
func (c *Chunks) Begun() bool { return c.prefix != "" }

// Content appends a part of the text.
func (c *Chunks) Content(dst []byte, text string) []byte {
	return c.delta(dst, `{"content":`+body.Quote(text)+`}`, "null")
}

// Reasoning appends a part of what the model has thought.
func (c *Chunks) Reasoning(dst []byte, text string) []byte {
	return c.delta(dst, `{"reasoning_content":`+body.Quote(text)+`}`, "null")
}

// Tool appends the beginning of a tool call, and returns its index.
func (c *Chunks) Tool(dst []byte, call ToolCall) ([]byte, int) {
	index := c.tools
	c.tools++
	extra := ""
	if call.Extra != "" {
		extra = `,"extra_content":` + call.Extra
	}
	return c.delta(dst, `{"tool_calls":[{"index":`+strconv.Itoa(index)+`,"id":`+body.Quote(call.ID)+`,"type":"function","function":{"name":`+
		body.Quote(call.Name)+`,"arguments":`+body.Quote(call.Arguments)+`}`+extra+`}]}`, "null"), index
}

// Arguments appends a part of the arguments of a tool call.
func (c *Chunks) Arguments(dst []byte, index int, part string) []byte {
	return c.delta(dst, `{"tool_calls":[{"index":`+strconv.Itoa(index)+`,"function":{"arguments":`+body.Quote(part)+`}}]}`, "null")
}

// Tools returns how many tool calls have begun.
func (c *Chunks) Tools() int { return c.tools }

// End appends the last chunks: why it ends, the usage when it was asked for, and the
// mark of the end.
func (c *Chunks) End(dst []byte, finish string, usage *ai.Usage) []byte {
	dst = c.delta(dst, "{}", body.Quote(finish))
	if usage != nil {
		dst = sse.Append(dst, "", append(AppendUsage([]byte(c.prefix+`],"usage":`), *usage), '}'))
	}
	return append(dst, "data: [DONE]\n\n"...)
}

func (c *Chunks) delta(dst []byte, delta, finish string) []byte {
	dst = append(append(dst, "data: "...), c.prefix...)
	dst = append(append(dst, `{"index":0,"delta":`...), delta...)
	dst = append(append(dst, `,"logprobs":null,"finish_reason":`...), finish...)
	return append(dst, "}]}\n\n"...)
}

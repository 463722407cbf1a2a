package anthropic

import (
	"encoding/json"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/openai"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

// finishOf tells why a message stopped in the words of chat.
func finishOf(stop string) string {
	switch stop {
	case "max_tokens", "model_context_window_exceeded":
		return "length"
	case "tool_use":
		return "tool_calls"
	case "refusal":
		return "content_filter"
	}
	return "stop"
}

// toChat makes a completion of a message.
func toChat(answer []byte) ([]byte, error) {
	message := gjson.ParseBytes(answer)
	if !gjson.ValidBytes(answer) || !message.Get("content").IsArray() {
		return nil, wire.BadAnswer("it is no message")
	}
	c := openai.Completion{ID: message.Get("id").Str, Model: message.Get("model").Str, Finish: finishOf(message.Get("stop_reason").Str)}
	c.Usage, _ = readUsage(message.Get("usage"))
	var text, thought strings.Builder
	body.Visit(message.Get("content"), func(_, block gjson.Result) bool {
		switch block.Get("type").Str {
		case "text":
			text.WriteString(block.Get("text").Str)
		case "thinking":
			thought.WriteString(block.Get("thinking").Str)
		case "tool_use":
			c.ToolCalls = append(c.ToolCalls, openai.ToolCall{
				ID: block.Get("id").Str, Name: block.Get("name").Str, Arguments: compact(block.Get("input").Raw),
			})
		}
		return true
	})
	c.Content, c.Reasoning = text.String(), thought.String()
	return json.Marshal(c)
}

func compact(document string) string {
	if document == "" {
		return "{}"
	}
	return gjson.Get(document, "@ugly").Raw
}

// chatStream makes chunks of the events of a message.
type chatStream struct {
	counter
	usageAsked bool
	chunks     openai.Chunks
	tools      map[int64]*streamedTool // by the index of their block
	stop       string
}

type streamedTool struct {
	index int
	any   bool // arguments came
}

// toolsMax bounds the tool calls of one answer.
const toolsMax = 256

// Event turns one event into chunks.
func (s *chatStream) Event(dst []byte, e sse.Event) ([]byte, error) {
	if e.Data == nil {
		return append(dst, e.Raw...), nil
	}
	kind := kindOf(e)
	event := gjson.ParseBytes(e.Data)
	if !s.chunks.Begun() && (kind == "content_block_start" || kind == "content_block_delta" || kind == "message_delta" || kind == "message_stop") {
		return dst, wire.BadAnswer("a message does not begin with its start")
	}
	s.note(kind, event)
	switch kind {
	case "error":
		return dst, ReadError(502, e.Data)
	case "message_start":
		return s.chunks.Begin(dst, event.Get("message.id").Str, event.Get("message.model").Str), nil
	case "ping":
		return append(dst, ": ping\n\n"...), nil
	case "content_block_start":
		return s.begin(dst, event)
	case "content_block_delta":
		return s.delta(dst, event), nil
	case "content_block_stop":
		if tool := s.tools[event.Get("index").Int()]; tool != nil && !tool.any {
			return s.chunks.Arguments(dst, tool.index, "{}"), nil // a call without arguments
		}
	case "message_delta":
		if stop := event.Get("delta.stop_reason").Str; stop != "" {
			s.stop = stop
		}
	case "message_stop":
		usage := &s.usage
		if !s.usageAsked {
			usage = nil
		}
		return s.chunks.End(dst, finishOf(s.stop), usage), nil
	}
	return dst, nil
}

func (s *chatStream) begin(dst []byte, event gjson.Result) ([]byte, error) {
	block := event.Get("content_block")
	switch block.Get("type").Str {
	case "text":
		if text := block.Get("text").Str; text != "" {
			dst = s.chunks.Content(dst, text)
		}
	case "tool_use":
		if len(s.tools) >= toolsMax {
			return dst, wire.BadAnswer("it calls too many tools")
		}
		if s.tools == nil {
			s.tools = make(map[int64]*streamedTool)
		}
		tool := new(streamedTool)
		call := openai.ToolCall{ID: block.Get("id").Str, Name: block.Get("name").Str}
		if input := block.Get("input"); len(input.Map()) > 0 { // some give all of it at once
			call.Arguments, tool.any = compact(input.Raw), true
		}
		dst, tool.index = s.chunks.Tool(dst, call)
		s.tools[event.Get("index").Int()] = tool
	}
	return dst, nil
}

func (s *chatStream) delta(dst []byte, event gjson.Result) []byte {
	delta := event.Get("delta")
	switch delta.Get("type").Str {
	case "text_delta":
		return s.chunks.Content(dst, delta.Get("text").Str)
	case "thinking_delta":
		return s.chunks.Reasoning(dst, delta.Get("thinking").Str)
	case "input_json_delta":
		tool, part := s.tools[event.Get("index").Int()], delta.Get("partial_json").Str
		if tool != nil && part != "" {
			tool.any = true
			return s.chunks.Arguments(dst, tool.index, part)
		}
	}
	return dst
}

package anthropic

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/openai"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

// stopOf tells why a completion ended in the words of messages.
func stopOf(finish string) string {
	switch finish {
	case "length":
		return "max_tokens"
	case "tool_calls", "function_call":
		return "tool_use"
	case "content_filter":
		return "refusal"
	}
	return "end_turn"
}

// appendUsage appends a usage as messages tell it.
func appendUsage(dst []byte, u ai.Usage) []byte {
	dst = append(dst, `{"input_tokens":`...)
	dst = strconv.AppendInt(dst, u.Input, 10)
	dst = append(dst, `,"cache_creation_input_tokens":`...)
	dst = strconv.AppendInt(dst, u.CacheWrite, 10)
	dst = append(dst, `,"cache_read_input_tokens":`...)
	dst = strconv.AppendInt(dst, u.CachedInput, 10)
	dst = append(dst, `,"output_tokens":`...)
	dst = strconv.AppendInt(dst, u.OutputTotal(), 10)
	return append(dst, '}')
}

// fromCompletion makes a message of a completion.
func fromCompletion(answer []byte) ([]byte, error) {
	message := gjson.GetBytes(answer, "choices.0.message")
	if !gjson.ValidBytes(answer) || !message.IsObject() {
		return nil, wire.BadAnswer("it is no completion")
	}
	blocks := []any{}
	for _, name := range []string{"content", "refusal"} {
		if text := message.Get(name).Str; text != "" {
			blocks = append(blocks, textBlock(text))
		}
	}
	body.Visit(message.Get("tool_calls"), func(_, call gjson.Result) bool {
		arguments := call.Get("function.arguments").Str
		if !gjson.Valid(arguments) {
			arguments = "{}"
		}
		blocks = append(blocks, map[string]any{
			"type": "tool_use", "id": call.Get("id").Str, "name": call.Get("function.name").Str, "input": raw(arguments),
		})
		return true
	})
	usage, _ := openai.ChatUsage(answer)
	return json.Marshal(map[string]any{
		"id": gjson.GetBytes(answer, "id").Str, "type": "message", "role": "assistant", "model": gjson.GetBytes(answer, "model").Str,
		"content": blocks, "stop_reason": stopOf(gjson.GetBytes(answer, "choices.0.finish_reason").Str), "stop_sequence": nil,
		"usage": raw(appendUsage(nil, usage)),
	})
}

// overStream makes the events of a message of the chunks of chat. The blocks of a
// message come one after another, and chunks of several tool calls may come mixed: the
// first is passed on as it comes, the others when it is over.
type overStream struct {
	wire.Stream
	frames []byte // that the stream within has given
	begun  bool
	open   string // type of the open block, if one is
	blocks int    // that have begun
	tools  []*heldTool
	late   []byte // text that came after a tool call
	finish string
	ended  bool
}

type heldTool struct {
	index     int64
	id, name  string
	arguments []byte
}

// heldBytesMax bounds what is kept of the tool calls that wait.
const heldBytesMax = 8 << 20

// Event turns one event into those of a message.
func (s *overStream) Event(dst []byte, e sse.Event) ([]byte, error) {
	var failed error
	s.frames, failed = s.Stream.Event(s.frames[:0], e)
	chunks := sse.NewReader(bytes.NewReader(s.frames), len(s.frames)+1)
	for {
		chunk, err := chunks.Next()
		if errors.Is(err, io.EOF) {
			return dst, failed
		}
		if err != nil {
			return dst, err
		}
		switch {
		case chunk.Data == nil:
			dst = append(dst, chunk.Raw...)
		case string(chunk.Data) == "[DONE]":
			dst = s.end(dst)
		default:
			if dst, err = s.chunk(dst, gjson.ParseBytes(chunk.Data)); err != nil {
				return dst, err
			}
		}
	}
}

func (s *overStream) chunk(dst []byte, chunk gjson.Result) ([]byte, error) {
	if !s.begun {
		s.begun = true
		dst = sse.Append(dst, "message_start", []byte(`{"type":"message_start","message":{"id":`+body.Quote(chunk.Get("id").Str)+
			`,"type":"message","role":"assistant","model":`+body.Quote(chunk.Get("model").Str)+
			`,"content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,"output_tokens":0}}}`))
	}
	choice := chunk.Get("choices.0")
	delta := choice.Get("delta")
	for _, name := range []string{"content", "refusal"} {
		text := delta.Get(name).Str
		if text == "" {
			continue
		}
		if len(s.tools) > 0 { // text between calls is rare, and comes after the first call
			s.late = append(s.late, text...)
			if len(s.late) > heldBytesMax {
				return dst, wire.BadAnswer("its text between tool calls is too large")
			}
			continue
		}
		if s.open != "text" {
			dst = s.begin(dst, "text", `{"type":"text","text":""}`)
		}
		dst = s.delta(dst, `{"type":"text_delta","text":`+body.Quote(text)+`}`)
	}
	var err error
	body.Visit(delta.Get("tool_calls"), func(_, call gjson.Result) bool {
		dst, err = s.tool(dst, call)
		return err == nil
	})
	if finish := choice.Get("finish_reason").Str; finish != "" {
		s.finish = finish
	}
	return dst, err
}

// tool takes a part of a tool call. The first call of all is the open block.
func (s *overStream) tool(dst []byte, call gjson.Result) ([]byte, error) {
	index, part := call.Get("index").Int(), call.Get("function.arguments").Str
	var held *heldTool
	for _, t := range s.tools {
		if t.index == index {
			held = t
		}
	}
	if held == nil {
		if len(s.tools) >= toolsMax {
			return dst, wire.BadAnswer("it calls too many tools")
		}
		held = &heldTool{index: index, id: call.Get("id").Str, name: call.Get("function.name").Str}
		s.tools = append(s.tools, held)
		if len(s.tools) == 1 {
			dst = s.beginTool(s.close(dst), held)
		}
	}
	if part == "" {
		return dst, nil
	}
	if held == s.tools[0] {
		return s.delta(dst, `{"type":"input_json_delta","partial_json":`+body.Quote(part)+`}`), nil
	}
	held.arguments = append(held.arguments, part...)
	total := 0
	for _, t := range s.tools {
		total += len(t.arguments)
	}
	if total > heldBytesMax {
		return dst, wire.BadAnswer("the arguments of its tool calls are too large")
	}
	return dst, nil
}

func (s *overStream) beginTool(dst []byte, t *heldTool) []byte {
	return s.begin(dst, "tool_use", `{"type":"tool_use","id":`+body.Quote(t.id)+`,"name":`+body.Quote(t.name)+`,"input":{}}`)
}

func (s *overStream) begin(dst []byte, kind, block string) []byte {
	s.open = kind
	s.blocks++
	return sse.Append(dst, "content_block_start",
		[]byte(`{"type":"content_block_start","index":`+strconv.Itoa(s.blocks-1)+`,"content_block":`+block+`}`))
}

func (s *overStream) delta(dst []byte, delta string) []byte {
	return sse.Append(dst, "content_block_delta",
		[]byte(`{"type":"content_block_delta","index":`+strconv.Itoa(s.blocks-1)+`,"delta":`+delta+`}`))
}

func (s *overStream) close(dst []byte) []byte {
	if s.open == "" {
		return dst
	}
	s.open = ""
	return sse.Append(dst, "content_block_stop", []byte(`{"type":"content_block_stop","index":`+strconv.Itoa(s.blocks-1)+`}`))
}

// end writes the tool calls that waited, why it ends and the usage.
func (s *overStream) end(dst []byte) []byte {
	if !s.begun || s.ended {
		return dst
	}
	s.ended = true
	dst = s.close(dst)
	if len(s.late) > 0 {
		dst = s.begin(dst, "text", `{"type":"text","text":""}`)
		dst = s.close(s.delta(dst, `{"type":"text_delta","text":`+body.Quote(string(s.late))+`}`))
	}
	for _, t := range s.tools[min(1, len(s.tools)):] {
		dst = s.beginTool(dst, t)
		if len(t.arguments) > 0 {
			dst = s.delta(dst, `{"type":"input_json_delta","partial_json":`+body.Quote(string(t.arguments))+`}`)
		}
		dst = s.close(dst)
	}
	usage, _ := s.Usage()
	dst = sse.Append(dst, "message_delta", append(appendUsage([]byte(
		`{"type":"message_delta","delta":{"stop_reason":`+body.Quote(stopOf(s.finish))+`,"stop_sequence":null},"usage":`), usage), '}'))
	return sse.Append(dst, "message_stop", []byte(`{"type":"message_stop"}`))
}

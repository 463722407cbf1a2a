package simulated

import (
	"encoding/json"
	"strings"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire/openai"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

func (a *answer) usage() ai.Usage {
	return ai.Usage{Input: a.plan.input - a.plan.cached, CachedInput: a.plan.cached, Output: a.plan.output}
}

// argumentBytes is how much of the arguments of a call comes in one part.
const argumentBytes = 8

func writeChat(a *answer) {
	finish := "stop"
	switch {
	case len(a.plan.calls) > 0:
		finish = "tool_calls"
	case a.plan.length:
		finish = "length"
	}
	if !a.asked.stream {
		c := openai.Completion{
			ID: a.id("chatcmpl-sim"), Model: a.asked.model, Content: strings.Join(a.plan.pieces, ""), Finish: finish, Usage: a.usage(),
		}
		for _, call := range a.plan.calls {
			c.ToolCalls = append(c.ToolCalls, openai.ToolCall{ID: call.id, Name: call.name, Arguments: call.arguments})
		}
		a.json(c)
		return
	}
	var chunks openai.Chunks
	a.part(chunks.Begin(nil, a.id("chatcmpl-sim"), a.asked.model))
	for _, piece := range a.plan.pieces {
		a.part(chunks.Content(nil, piece))
	}
	for _, call := range a.plan.calls {
		frame, index := chunks.Tool(nil, openai.ToolCall{ID: call.id, Name: call.name})
		a.part(frame)
		for rest := call.arguments; rest != ""; {
			n := min(argumentBytes, len(rest))
			for n < len(rest) && rest[n]&0xC0 == 0x80 { // never within a character
				n++
			}
			a.part(chunks.Arguments(nil, index, rest[:n]))
			rest = rest[n:]
		}
	}
	var usage *ai.Usage
	if a.asked.usageAsked {
		u := a.usage()
		usage = &u
	}
	a.part(chunks.End(nil, finish, usage))
}

func writeMessages(a *answer) {
	stop := "end_turn"
	switch {
	case len(a.plan.calls) > 0:
		stop = "tool_use"
	case a.plan.length:
		stop = "max_tokens"
	}
	usage := map[string]int64{
		"input_tokens": a.plan.input - a.plan.cached, "cache_read_input_tokens": a.plan.cached,
		"cache_creation_input_tokens": 0, "output_tokens": a.plan.output,
	}
	message := map[string]any{
		"id": a.id("msg_sim"), "type": "message", "role": "assistant", "model": a.asked.model,
		"content": []any{}, "stop_reason": nil, "stop_sequence": nil, "usage": usage,
	}
	blocks := []any{}
	if len(a.plan.calls) == 0 {
		blocks = append(blocks, map[string]any{"type": "text", "text": strings.Join(a.plan.pieces, "")})
	}
	for _, call := range a.plan.calls {
		blocks = append(blocks, map[string]any{"type": "tool_use", "id": call.id, "name": call.name, "input": json.RawMessage(call.arguments)})
	}
	if !a.asked.stream {
		message["content"], message["stop_reason"] = blocks, stop
		a.json(message)
		return
	}
	event := func(kind string, fields map[string]any) {
		fields["type"] = kind
		data, err := json.Marshal(fields)
		if err != nil { // cannot happen: it is made here
			panic(err)
		}
		a.part(sse.Append(nil, kind, data))
	}
	block := func(index int, begin map[string]any, deltas []map[string]any) {
		event("content_block_start", map[string]any{"index": index, "content_block": begin})
		for _, delta := range deltas {
			event("content_block_delta", map[string]any{"index": index, "delta": delta})
		}
		event("content_block_stop", map[string]any{"index": index})
	}
	message["usage"] = map[string]int64{"input_tokens": usage["input_tokens"], "cache_read_input_tokens": a.plan.cached, "output_tokens": 1}
	event("message_start", map[string]any{"message": message})
	a.part(sse.Append(nil, "ping", []byte(`{"type":"ping"}`)))
	if len(a.plan.calls) == 0 {
		var deltas []map[string]any
		for _, piece := range a.plan.pieces {
			deltas = append(deltas, map[string]any{"type": "text_delta", "text": piece})
		}
		block(0, map[string]any{"type": "text", "text": ""}, deltas)
	}
	for i, call := range a.plan.calls {
		half := len(call.arguments) / 2
		for half < len(call.arguments) && call.arguments[half]&0xC0 == 0x80 {
			half++
		}
		block(i, map[string]any{"type": "tool_use", "id": call.id, "name": call.name, "input": map[string]any{}}, []map[string]any{
			{"type": "input_json_delta", "partial_json": call.arguments[:half]}, {"type": "input_json_delta", "partial_json": call.arguments[half:]},
		})
	}
	event("message_delta", map[string]any{
		"delta": map[string]any{"stop_reason": stop, "stop_sequence": nil}, "usage": map[string]int64{"output_tokens": a.plan.output},
	})
	event("message_stop", map[string]any{})
}

func writeResponses(a *answer) {
	text := strings.Join(a.plan.pieces, "")
	response := func(status string) map[string]any {
		r := map[string]any{
			"id": a.id("resp_sim"), "object": "response", "created_at": 0, "status": status, "model": a.asked.model, "error": nil,
			"incomplete_details": nil, "instructions": nil, "metadata": map[string]any{}, "parallel_tool_calls": true,
			"temperature": 1, "tool_choice": "auto", "tools": []any{}, "top_p": 1, "output": []any{},
		}
		if status == "completed" {
			r["output"] = []any{a.item(text)}
			r["usage"] = map[string]any{
				"input_tokens": a.plan.input, "input_tokens_details": map[string]int64{"cached_tokens": a.plan.cached},
				"output_tokens": a.plan.output, "output_tokens_details": map[string]int64{"reasoning_tokens": 0}, "total_tokens": a.plan.input + a.plan.output,
			}
		}
		return r
	}
	if !a.asked.stream {
		a.json(response("completed"))
		return
	}
	number := 0
	event := func(kind string, fields map[string]any) {
		fields["type"], fields["sequence_number"] = kind, number
		number++
		data, err := json.Marshal(fields)
		if err != nil { // cannot happen: it is made here
			panic(err)
		}
		a.part(sse.Append(nil, kind, data))
	}
	at := func(fields map[string]any) map[string]any {
		fields["item_id"], fields["output_index"], fields["content_index"] = a.id("msg_sim"), 0, 0
		return fields
	}
	event("response.created", map[string]any{"response": response("in_progress")})
	item := a.item("")
	item["status"], item["content"] = "in_progress", []any{}
	event("response.output_item.added", map[string]any{"output_index": 0, "item": item})
	event("response.content_part.added", at(map[string]any{"part": outputText("")}))
	for _, piece := range a.plan.pieces {
		event("response.output_text.delta", at(map[string]any{"delta": piece, "logprobs": []any{}}))
	}
	event("response.output_text.done", at(map[string]any{"text": text, "logprobs": []any{}}))
	event("response.content_part.done", at(map[string]any{"part": outputText(text)}))
	event("response.output_item.done", map[string]any{"output_index": 0, "item": a.item(text)})
	event("response.completed", map[string]any{"response": response("completed")})
}

func outputText(text string) map[string]any {
	return map[string]any{"type": "output_text", "text": text, "annotations": []any{}, "logprobs": []any{}}
}

func (a *answer) item(text string) map[string]any {
	return map[string]any{"id": a.id("msg_sim"), "type": "message", "role": "assistant", "status": "completed", "content": []any{outputText(text)}}
}

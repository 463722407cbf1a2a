package anthropic

import (
	"encoding/json"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
)

// messagesOnly are the fields of messages that chat has not and that are wishes.
var messagesOnly = map[string]bool{
	"system": true, "stop_sequences": true, "top_k": true, "metadata": true, "thinking": true, "service_tier": true,
	"output_config": true, "container": true, "context_management": true, "cache_control": true, "inference_geo": true,
}

// OverChat makes the exchange for messages with an upstream of chat, which chat makes
// exchanges with.
func OverChat(o *body.Object, options wire.Options, chat func(*body.Object, wire.Options) (*wire.Exchange, error)) (*wire.Exchange, error) {
	request, err := toChatRequest(o, options)
	if err != nil {
		return nil, err
	}
	parsed, err := body.Parse(request)
	if err != nil {
		return nil, wire.Invalid("", err.Error())
	}
	options.UsageAsked = true
	x, err := chat(parsed, options)
	if err != nil {
		return nil, err
	}
	inner := *x
	x.Response = func(answer []byte) ([]byte, error) {
		if inner.Response != nil {
			var err error
			if answer, err = inner.Response(answer); err != nil {
				return nil, err
			}
		}
		return fromCompletion(answer)
	}
	x.Stream = func() wire.Stream { return &overStream{Stream: inner.Stream()} }
	return x, nil
}

func toChatRequest(o *body.Object, options wire.Options) ([]byte, error) {
	m := map[string]any{"model": options.Model}
	var (
		messages []any
		err      error
	)
	if system := systemText(o.Get("system")); system != "" {
		messages = append(messages, map[string]any{"role": "system", "content": system})
	}
	o.Each(func(name string, value gjson.Result) bool {
		switch name {
		case "model":
		case "max_tokens":
			if options.CompletionTokens {
				name = "max_completion_tokens"
			}
			m[name] = raw(value.Raw)
		case "messages":
			messages, err = appendChatMessages(messages, value)
		case "tools":
			m[name], err = toolsToChat(value)
		case "tool_choice":
			choiceToChat(m, value)
		default:
			if !messagesOnly[name] {
				m[name] = raw(value.Raw)
			}
		}
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	m["messages"] = messages
	if stop := o.Get("stop_sequences"); stop.IsArray() {
		m["stop"] = raw(stop.Raw)
	}
	if user := o.Get("metadata").Get("user_id").Str; user != "" {
		m["user"] = user
	}
	if format := o.Get("output_config").Get("format"); format.Get("type").Str == "json_schema" {
		m["response_format"] = map[string]any{"type": "json_schema", "json_schema": map[string]any{
			"name": "output", "schema": raw(format.Get("schema").Raw), "strict": true,
		}}
	}
	return json.Marshal(m)
}

func systemText(system gjson.Result) string {
	if system.Type == gjson.String {
		return system.Str
	}
	var parts []string
	body.Visit(system, func(_, block gjson.Result) bool {
		parts = append(parts, block.Get("text").Str)
		return true
	})
	return strings.Join(parts, "\n\n")
}

func appendChatMessages(messages []any, turns gjson.Result) ([]any, error) {
	var err error
	body.Visit(turns, func(_, message gjson.Result) bool {
		role, content := message.Get("role").Str, message.Get("content")
		switch role {
		case "user":
			messages, err = appendUser(messages, content)
		case "assistant":
			messages = append(messages, assistantToChat(content))
		case "system": // newer models take one between turns
			messages = append(messages, map[string]any{"role": "system", "content": systemText(content)})
		default:
			err = wire.Invalid("messages", "A message has the role "+body.Quote(role)+", want user or assistant.")
		}
		return err == nil
	})
	return messages, err
}

// appendUser appends a turn of the user: the results of tools, each as a message of its
// own, and then everything else.
func appendUser(messages []any, content gjson.Result) ([]any, error) {
	if content.Type == gjson.String {
		return append(messages, map[string]any{"role": "user", "content": content.Str}), nil
	}
	var (
		parts []any
		err   error
	)
	body.Visit(content, func(_, block gjson.Result) bool {
		if block.Get("type").Str != "tool_result" {
			var part any
			if part, err = partToChat(block); part != nil {
				parts = append(parts, part)
			}
			return err == nil
		}
		result := block.Get("content")
		text := result.Str
		if result.IsArray() {
			var texts []string
			body.Visit(result, func(_, inner gjson.Result) bool {
				if inner.Get("type").Str == "text" {
					texts = append(texts, inner.Get("text").Str)
					return true
				}
				var part any
				if part, err = partToChat(inner); part != nil {
					parts = append(parts, part) // the result of a tool is text only
				}
				return err == nil
			})
			text = strings.Join(texts, "\n")
		}
		if block.Get("is_error").Bool() {
			text = "Error: " + text
		}
		messages = append(messages, map[string]any{"role": "tool", "tool_call_id": block.Get("tool_use_id").Str, "content": text})
		return err == nil
	})
	if err == nil && len(parts) > 0 {
		messages = append(messages, map[string]any{"role": "user", "content": parts})
	}
	return messages, err
}

// partToChat makes a part of a content block; nil when there is nothing to tell.
func partToChat(block gjson.Result) (any, error) {
	source := block.Get("source")
	url := source.Get("url").Str
	if source.Get("type").Str == "base64" {
		url = "data:" + source.Get("media_type").Str + ";base64," + source.Get("data").Str
	}
	switch kind := block.Get("type").Str; kind {
	case "text":
		return map[string]any{"type": "text", "text": block.Get("text").Str}, nil
	case "image":
		return map[string]any{"type": "image_url", "image_url": map[string]any{"url": url}}, nil
	case "document":
		switch source.Get("type").Str {
		case "base64":
			name := block.Get("title").Str
			if name == "" {
				name = "document"
			}
			return map[string]any{"type": "file", "file": map[string]any{"filename": name, "file_data": url}}, nil
		case "text":
			return map[string]any{"type": "text", "text": source.Get("data").Str}, nil
		}
		return nil, wire.Invalid("messages", "A document must be given by its data with this model.")
	case "thinking", "redacted_thinking": // means something to the model that wrote it only
		return nil, nil
	default:
		return nil, wire.Invalid("messages", "This model takes no content of the type "+body.Quote(kind)+".")
	}
}

func assistantToChat(content gjson.Result) any {
	message := map[string]any{"role": "assistant", "content": nil}
	if content.Type == gjson.String {
		message["content"] = content.Str
		return message
	}
	var (
		text  strings.Builder
		calls []any
	)
	body.Visit(content, func(_, block gjson.Result) bool {
		switch block.Get("type").Str {
		case "text":
			text.WriteString(block.Get("text").Str)
		case "tool_use":
			calls = append(calls, map[string]any{"id": block.Get("id").Str, "type": "function", "function": map[string]any{
				"name": block.Get("name").Str, "arguments": compact(block.Get("input").Raw),
			}})
		}
		return true
	})
	if text.Len() > 0 || len(calls) == 0 {
		message["content"] = text.String()
	}
	if len(calls) > 0 {
		message["tool_calls"] = calls
	}
	return message
}

func toolsToChat(tools gjson.Result) (any, error) {
	var (
		list []any
		err  error
	)
	body.Visit(tools, func(_, tool gjson.Result) bool {
		if kind := tool.Get("type").Str; kind != "" && kind != "custom" {
			err = wire.Invalid("tools", "This model has no tool of the type "+body.Quote(kind)+" of its own.")
			return false
		}
		function := map[string]any{"name": tool.Get("name").Str}
		for from, to := range map[string]string{"description": "description", "input_schema": "parameters", "strict": "strict"} {
			if value := tool.Get(from); value.Exists() {
				function[to] = raw(value.Raw)
			}
		}
		list = append(list, map[string]any{"type": "function", "function": function})
		return true
	})
	return list, err
}

func choiceToChat(m map[string]any, choice gjson.Result) {
	switch kind := choice.Get("type").Str; kind {
	case "any":
		m["tool_choice"] = "required"
	case "tool":
		m["tool_choice"] = map[string]any{"type": "function", "function": map[string]any{"name": choice.Get("name").Str}}
	default:
		m["tool_choice"] = kind
	}
	if choice.Get("disable_parallel_tool_use").Bool() {
		m["parallel_tool_calls"] = false
	}
}

package anthropic

import (
	"encoding/json"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
)

// raw is a value that is written as it stands.
type raw = json.RawMessage

// chatOnly are the fields of chat that this format has not and that are wishes.
var chatOnly = map[string]bool{
	"frequency_penalty": true, "presence_penalty": true, "logit_bias": true, "logprobs": true, "top_logprobs": true,
	"seed": true, "store": true, "metadata": true, "n": true, "service_tier": true, "modalities": true, "prediction": true,
	"stream_options": true, "prompt_cache_key": true, "prompt_cache_retention": true, "safety_identifier": true,
	"verbosity": true, "web_search_options": true, "reasoning_effort": true, "parallel_tool_calls": true,
	"max_completion_tokens": true, "user": true, "stop": true, "response_format": true,
}

// Chat makes the exchange for a chat with an upstream that speaks this format.
func Chat(o *body.Object, options wire.Options) (*wire.Exchange, error) {
	request, err := fromChat(o, options)
	if err != nil {
		return nil, err
	}
	return &wire.Exchange{
		Path: path, Body: request, Header: header(), Usage: Usage, Failure: ReadError,
		Response: toChat,
		Stream:   func() wire.Stream { return &chatStream{usageAsked: options.UsageAsked} },
	}, nil
}

func fromChat(o *body.Object, options wire.Options) ([]byte, error) {
	if o.Get("n").Int() > 1 {
		return nil, wire.Invalid("n", "This model gives one choice only.")
	}
	for _, legacy := range []string{"functions", "function_call", "audio"} {
		if o.Get(legacy).Exists() {
			return nil, wire.Invalid(legacy, legacy+" cannot be used with this model.")
		}
	}
	m := map[string]any{"model": options.Model}
	bound := o.Get("max_completion_tokens").Int()
	if bound <= 0 {
		bound = o.Get("max_tokens").Int()
	}
	if bound <= 0 {
		bound = options.OutputMax
	}
	m["max_tokens"] = bound
	var err error
	o.Each(func(name string, value gjson.Result) bool {
		switch name {
		case "model", "max_tokens":
		case "messages":
			err = messagesFromChat(m, value)
		case "temperature":
			if value.Type == gjson.Number {
				m[name] = min(value.Num, 1)
			}
		case "tools":
			m[name] = toolsFromChat(value)
		case "tool_choice":
			m[name], err = choiceFromChat(value)
		default:
			if !chatOnly[name] {
				m[name] = raw(value.Raw)
			}
		}
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	if stop := o.Get("stop"); stop.IsArray() {
		m["stop_sequences"] = raw(stop.Raw)
	} else if stop.Str != "" {
		m["stop_sequences"] = []string{stop.Str}
	}
	if user := o.Get("user").Str; user != "" {
		m["metadata"] = map[string]string{"user_id": user}
	}
	if o.Get("parallel_tool_calls").Type == gjson.False && o.Get("tools").Exists() {
		choice, _ := m["tool_choice"].(map[string]any)
		if choice == nil {
			choice = map[string]any{"type": "auto"}
		}
		if choice["type"] != "none" {
			choice["disable_parallel_tool_use"] = true
		}
		m["tool_choice"] = choice
	}
	switch format := o.Get("response_format"); format.Get("type").Str {
	case "json_schema":
		m["output_config"] = outputConfig(o.Get("output_config"), format.Get("json_schema.schema").Raw)
	case "json_object":
		return nil, wire.Invalid("response_format", "This model takes a json_schema, not a json_object without one.")
	}
	return json.Marshal(m)
}

// outputConfig adds a schema to what the client has set for itself.
func outputConfig(given gjson.Result, schema string) any {
	config := make(map[string]any)
	body.Visit(given, func(key, value gjson.Result) bool {
		config[key.Str] = raw(value.Raw)
		return true
	})
	if schema == "" {
		schema = "{}"
	}
	config["format"] = map[string]any{"type": "json_schema", "schema": raw(schema)}
	return config
}

// turn is a message of this format.
type turn struct {
	Role    string `json:"role"`
	Content []any  `json:"content"`
}

// messagesFromChat fills in system and messages. Messages of one role in a row become
// one turn: the results of all tools must stand in the turn after the calls.
func messagesFromChat(m map[string]any, messages gjson.Result) error {
	var (
		system []any
		turns  []*turn
		err    error
	)
	add := func(role string, blocks ...any) {
		if len(blocks) == 0 {
			return
		}
		if n := len(turns); n > 0 && turns[n-1].Role == role {
			turns[n-1].Content = append(turns[n-1].Content, blocks...)
			return
		}
		turns = append(turns, &turn{role, blocks})
	}
	body.Visit(messages, func(_, message gjson.Result) bool {
		var blocks []any
		switch role := message.Get("role").Str; role {
		case "system", "developer":
			blocks, err = blocksFromChat(message.Get("content"))
			system = append(system, blocks...)
		case "user":
			blocks, err = blocksFromChat(message.Get("content"))
			add("user", blocks...)
		case "assistant":
			if blocks, err = blocksFromChat(message.Get("content")); err != nil {
				return false
			}
			if refusal := message.Get("refusal").Str; refusal != "" {
				blocks = append(blocks, textBlock(refusal))
			}
			body.Visit(message.Get("tool_calls"), func(_, call gjson.Result) bool {
				arguments := call.Get("function.arguments").Str
				if strings.TrimSpace(arguments) == "" {
					arguments = "{}"
				}
				if !gjson.Valid(arguments) {
					err = wire.Invalid("messages", "The arguments of a tool call are no JSON.")
					return false
				}
				blocks = append(blocks, map[string]any{
					"type": "tool_use", "id": call.Get("id").Str, "name": call.Get("function.name").Str, "input": raw(arguments),
				})
				return true
			})
			add("assistant", blocks...)
		case "tool":
			if blocks, err = blocksFromChat(message.Get("content")); err != nil {
				return false
			}
			add("user", map[string]any{"type": "tool_result", "tool_use_id": message.Get("tool_call_id").Str, "content": blocks})
		default:
			err = wire.Invalid("messages", "A message has the role "+body.Quote(role)+", want system, developer, user, assistant or tool.")
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	if len(system) > 0 {
		m["system"] = system
	}
	m["messages"] = turns
	return nil
}

func textBlock(text string) any { return map[string]any{"type": "text", "text": text} }

// blocksFromChat makes content blocks of a content: a text, or a list of parts.
func blocksFromChat(content gjson.Result) ([]any, error) {
	blocks := []any{}
	if content.Type == gjson.String {
		if content.Str != "" { // an empty block is refused
			blocks = append(blocks, textBlock(content.Str))
		}
		return blocks, nil
	}
	var err error
	body.Visit(content, func(_, part gjson.Result) bool {
		var block any
		switch kind := part.Get("type").Str; kind {
		case "text":
			block = raw(part.Raw) // the same in both, with a cache_control if it has one
		case "refusal":
			block = textBlock(part.Get("refusal").Str)
		case "image_url":
			block = map[string]any{"type": "image", "source": source(part.Get("image_url.url").Str)}
		case "file":
			data := part.Get("file.file_data").Str
			if data == "" {
				err = wire.Invalid("messages", "A file must be given by its data with this model.")
				return false
			}
			document := map[string]any{"type": "document", "source": source(data)}
			if name := part.Get("file.filename").Str; name != "" {
				document["title"] = name
			}
			block = document
		case "input_audio":
			err = wire.Invalid("messages", "This model takes no audio.")
			return false
		default:
			block = raw(part.Raw) // newer than this package, or one of the model's own
		}
		blocks = append(blocks, block)
		return true
	})
	return blocks, err
}

// source tells where an image or a document is: in a data URL or elsewhere.
func source(url string) any {
	if rest, ok := strings.CutPrefix(url, "data:"); ok {
		head, data, _ := strings.Cut(rest, ",")
		media, _, _ := strings.Cut(head, ";")
		return map[string]any{"type": "base64", "media_type": media, "data": data}
	}
	return map[string]any{"type": "url", "url": url}
}

func toolsFromChat(tools gjson.Result) any {
	list := []any{}
	body.Visit(tools, func(_, tool gjson.Result) bool {
		if tool.Get("type").Str != "function" {
			list = append(list, raw(tool.Raw)) // a tool of the model's own
			return true
		}
		function := tool.Get("function")
		t := map[string]any{"name": function.Get("name").Str, "input_schema": map[string]any{"type": "object", "properties": map[string]any{}}}
		if parameters := function.Get("parameters"); parameters.IsObject() {
			t["input_schema"] = raw(parameters.Raw)
		}
		for _, name := range []string{"description", "strict"} {
			if value := function.Get(name); value.Exists() && value.Type != gjson.Null {
				t[name] = raw(value.Raw)
			}
		}
		if control := tool.Get("cache_control"); control.Exists() {
			t["cache_control"] = raw(control.Raw)
		}
		list = append(list, t)
		return true
	})
	return list
}

func choiceFromChat(choice gjson.Result) (any, error) {
	switch {
	case choice.Str == "auto" || choice.Str == "none":
		return map[string]any{"type": choice.Str}, nil
	case choice.Str == "required":
		return map[string]any{"type": "any"}, nil
	case choice.Get("type").Str == "function":
		return map[string]any{"type": "tool", "name": choice.Get("function.name").Str}, nil
	}
	return nil, wire.Invalid("tool_choice", "This model takes auto, none, required or a function as tool_choice.")
}

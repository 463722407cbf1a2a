package gemini

import (
	"encoding/json"
	"mime"
	"net/url"
	"path"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
)

type raw = json.RawMessage

// Chat makes the exchange for a chat.
func Chat(o *body.Object, options wire.Options) (*wire.Exchange, error) {
	request, err := fromChat(o)
	if err != nil {
		return nil, err
	}
	call := ":generateContent"
	if options.Stream {
		call = ":streamGenerateContent?alt=sse"
	}
	return &wire.Exchange{
		Path: "/models/" + url.PathEscape(options.Model) + call, Body: request, Usage: Usage, Failure: ReadError,
		Response: func(answer []byte) ([]byte, error) { return toChat(answer, options.Model) },
		Stream:   func() wire.Stream { return &chatStream{usageAsked: options.UsageAsked, model: options.Model} },
	}, nil
}

// settings are the fields of chat that this format has in its generationConfig.
var settings = map[string]string{
	"max_tokens": "maxOutputTokens", "max_completion_tokens": "maxOutputTokens", "temperature": "temperature", "top_p": "topP",
	"top_k": "topK", "seed": "seed", "presence_penalty": "presencePenalty", "frequency_penalty": "frequencyPenalty",
	"logprobs": "responseLogprobs", "top_logprobs": "logprobs",
}

// bounds are what says how much an answer may cost. They are taken from the fields of
// chat only, which budgets look at.
var bounds = map[string]bool{"maxOutputTokens": true, "max_output_tokens": true, "candidateCount": true, "candidate_count": true}

// chatOnly are the fields of chat that this format has not and that are wishes.
var chatOnly = map[string]bool{
	"model": true, "stream": true, "stream_options": true, "logit_bias": true, "store": true, "metadata": true, "n": true,
	"service_tier": true, "modalities": true, "prediction": true, "prompt_cache_key": true, "safety_identifier": true,
	"verbosity": true, "web_search_options": true, "user": true, "parallel_tool_calls": true, "prompt_cache_retention": true,
	"stop": true, "response_format": true, "reasoning_effort": true,
}

func fromChat(o *body.Object) ([]byte, error) {
	if o.Get("n").Int() > 1 {
		return nil, wire.Invalid("n", "This model gives one choice only.")
	}
	for _, legacy := range []string{"functions", "function_call", "audio"} {
		if o.Get(legacy).Exists() {
			return nil, wire.Invalid(legacy, legacy+" cannot be used with this model.")
		}
	}
	m, config := make(map[string]any), make(map[string]any)
	var err error
	o.Each(func(name string, value gjson.Result) bool {
		switch {
		case name == "generation_config": // another spelling of the one above
		case name == "messages":
			err = contentsFromChat(m, value)
		case name == "tools":
			m["tools"] = toolsFromChat(value)
		case name == "tool_choice":
			m["toolConfig"] = map[string]any{"functionCallingConfig": choiceFromChat(value)}
		case name == "generationConfig": // the client knows where it is going
			body.Visit(value, func(key, inner gjson.Result) bool {
				if !bounds[key.Str] {
					config[key.Str] = raw(inner.Raw)
				}
				return true
			})
		case settings[name] != "":
			if value.Type != gjson.Null {
				config[settings[name]] = raw(value.Raw)
			}
		case !chatOnly[name]:
			m[name] = raw(value.Raw)
		}
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	if stop := o.Get("stop"); stop.IsArray() {
		config["stopSequences"] = raw(stop.Raw)
	} else if stop.Str != "" {
		config["stopSequences"] = []string{stop.Str}
	}
	switch format := o.Get("response_format"); format.Get("type").Str {
	case "json_schema":
		config["responseMimeType"] = "application/json"
		if schema := format.Get("json_schema.schema"); schema.IsObject() {
			config["responseJsonSchema"] = raw(schema.Raw)
		}
	case "json_object":
		config["responseMimeType"] = "application/json"
	}
	if effort := o.Get("reasoning_effort").Str; effort != "" && config["thinkingConfig"] == nil {
		if tokens, known := thinking[effort]; known {
			config["thinkingConfig"] = map[string]any{"thinkingBudget": tokens}
		}
	}
	if len(config) > 0 {
		m["generationConfig"] = config
	}
	return json.Marshal(m)
}

// thinking is what Google's endpoint in the format of OpenAI takes the efforts for.
var thinking = map[string]int{"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}

type content struct {
	Role  string `json:"role,omitempty"`
	Parts []any  `json:"parts"`
}

// contentsFromChat fills in contents and systemInstruction. Messages of one role in a
// row become one content.
func contentsFromChat(m map[string]any, messages gjson.Result) error {
	var (
		system   []any
		contents []*content
		names    = make(map[string]string) // of functions, by the id of their call
		err      error
	)
	add := func(role string, parts []any) {
		if len(parts) == 0 {
			return
		}
		if n := len(contents); n > 0 && contents[n-1].Role == role {
			contents[n-1].Parts = append(contents[n-1].Parts, parts...)
			return
		}
		contents = append(contents, &content{role, parts})
	}
	body.Visit(messages, func(_, message gjson.Result) bool {
		var parts []any
		parts, err = partsFromChat(message.Get("content"))
		if err != nil {
			return false
		}
		switch role := message.Get("role").Str; role {
		case "system", "developer":
			system = append(system, parts...)
		case "user":
			add("user", parts)
		case "assistant":
			body.Visit(message.Get("tool_calls"), func(_, call gjson.Result) bool {
				name, arguments := call.Get("function.name").Str, call.Get("function.arguments").Str
				if strings.TrimSpace(arguments) == "" {
					arguments = "{}"
				}
				if !gjson.Valid(arguments) {
					err = wire.Invalid("messages", "The arguments of a tool call are no JSON.")
					return false
				}
				names[call.Get("id").Str] = name
				part := map[string]any{"functionCall": map[string]any{"name": name, "args": raw(arguments)}}
				if signature := call.Get("extra_content.google.thought_signature").Str; signature != "" {
					part["thoughtSignature"] = signature
				}
				parts = append(parts, part)
				return true
			})
			add("model", parts)
		case "tool":
			name, known := names[message.Get("tool_call_id").Str]
			if !known {
				err = wire.Invalid("messages", "A message of a tool answers no call before it.")
				return false
			}
			add("user", []any{map[string]any{"functionResponse": map[string]any{"name": name, "response": resultFromChat(message.Get("content"))}}})
		default:
			err = wire.Invalid("messages", "A message has the role "+body.Quote(role)+", want system, developer, user, assistant or tool.")
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	if len(system) > 0 {
		m["systemInstruction"] = content{Parts: system}
	}
	m["contents"] = contents
	return nil
}

// resultFromChat makes the result of a function, which must be an object.
func resultFromChat(result gjson.Result) any {
	text := result.Str
	if result.IsArray() {
		var texts []string
		body.Visit(result, func(_, part gjson.Result) bool {
			texts = append(texts, part.Get("text").Str)
			return true
		})
		text = strings.Join(texts, "\n")
	}
	if gjson.Valid(text) && gjson.Parse(text).IsObject() {
		return raw(text)
	}
	return map[string]string{"output": text}
}

func partsFromChat(content gjson.Result) ([]any, error) {
	var (
		parts []any
		err   error
	)
	if content.Type == gjson.String {
		if content.Str != "" {
			parts = append(parts, map[string]string{"text": content.Str})
		}
		return parts, nil
	}
	body.Visit(content, func(_, part gjson.Result) bool {
		switch kind := part.Get("type").Str; kind {
		case "text":
			parts = append(parts, map[string]string{"text": part.Get("text").Str})
		case "refusal":
			parts = append(parts, map[string]string{"text": part.Get("refusal").Str})
		case "image_url":
			parts = append(parts, blob(part.Get("image_url.url").Str))
		case "input_audio":
			parts = append(parts, map[string]any{"inlineData": map[string]string{
				"mimeType": "audio/" + part.Get("input_audio.format").Str, "data": part.Get("input_audio.data").Str,
			}})
		case "file":
			parts = append(parts, blob(part.Get("file.file_data").Str))
		default:
			err = wire.Invalid("messages", "This model takes no content of the type "+body.Quote(kind)+".")
		}
		return err == nil
	})
	return parts, err
}

// blob tells where a file is: in a data URL or elsewhere.
func blob(address string) any {
	if rest, ok := strings.CutPrefix(address, "data:"); ok {
		head, data, _ := strings.Cut(rest, ",")
		media, _, _ := strings.Cut(head, ";")
		return map[string]any{"inlineData": map[string]string{"mimeType": media, "data": data}}
	}
	media := "image/jpeg"
	if u, err := url.Parse(address); err == nil {
		if known := mime.TypeByExtension(path.Ext(u.Path)); known != "" {
			media = known
		}
	}
	return map[string]any{"fileData": map[string]string{"mimeType": media, "fileUri": address}}
}

func toolsFromChat(tools gjson.Result) any {
	var functions, list []any
	body.Visit(tools, func(_, tool gjson.Result) bool {
		if tool.Get("type").Str != "function" {
			list = append(list, raw(tool.Raw)) // a tool of the model's own
			return true
		}
		function := map[string]any{"name": tool.Get("function.name").Str}
		if description := tool.Get("function.description"); description.Exists() {
			function["description"] = raw(description.Raw)
		}
		if parameters := tool.Get("function.parameters"); parameters.IsObject() {
			function["parametersJsonSchema"] = raw(parameters.Raw)
		}
		functions = append(functions, function)
		return true
	})
	if len(functions) > 0 {
		list = append(list, map[string]any{"functionDeclarations": functions})
	}
	return list
}

func choiceFromChat(choice gjson.Result) any {
	switch {
	case choice.Str == "none":
		return map[string]any{"mode": "NONE"}
	case choice.Str == "required":
		return map[string]any{"mode": "ANY"}
	case choice.Get("type").Str == "function":
		return map[string]any{"mode": "ANY", "allowedFunctionNames": []string{choice.Get("function.name").Str}}
	}
	return map[string]any{"mode": "AUTO"}
}

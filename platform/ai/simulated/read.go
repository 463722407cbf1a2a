package simulated

import (
	"strings"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire/body"
)

// readChat reads a chat completion request, readMessages one of messages, and
// readResponses one of responses.
func readChat(root gjson.Result) *request {
	r := readCommon(root)
	r.outputMax = max(root.Get("max_tokens").Int(), root.Get("max_completion_tokens").Int())
	r.usageAsked = root.Get("stream_options.include_usage").Bool()
	r.schema = root.Get("response_format.json_schema.schema")
	body.Visit(root.Get("messages"), func(_, message gjson.Result) bool {
		text := textOf(message.Get("content"))
		r.inputBytes += len(text)
		switch message.Get("role").Str {
		case "user":
			r.text, r.results = text, nil
		case "tool":
			r.results = append(r.results, text)
		}
		return true
	})
	body.Visit(root.Get("tools"), func(_, t gjson.Result) bool {
		r.inputBytes += len(t.Raw)
		r.tools = append(r.tools, tool{t.Get("function.name").Str, t.Get("function.parameters")})
		return true
	})
	switch choice := root.Get("tool_choice"); {
	case choice.Str == "required":
		r.mustCall = "*"
	case choice.Str == "none":
		r.tools = nil
	case choice.IsObject():
		r.mustCall = choice.Get("function.name").Str
	}
	return r
}

func readMessages(root gjson.Result) *request {
	r := readCommon(root)
	r.outputMax = root.Get("max_tokens").Int()
	r.schema = root.Get("output_config.format.schema")
	r.inputBytes += len(textOf(root.Get("system")))
	body.Visit(root.Get("messages"), func(_, message gjson.Result) bool {
		content := message.Get("content")
		text := textOf(content)
		r.inputBytes += len(text)
		if message.Get("role").Str != "user" {
			return true
		}
		r.results = nil
		body.Visit(content, func(_, block gjson.Result) bool {
			if block.Get("type").Str == "tool_result" {
				r.results = append(r.results, textOf(block.Get("content")))
			}
			return true
		})
		if text != "" {
			r.text = text
		}
		return true
	})
	body.Visit(root.Get("tools"), func(_, t gjson.Result) bool {
		r.inputBytes += len(t.Raw)
		r.tools = append(r.tools, tool{t.Get("name").Str, t.Get("input_schema")})
		return true
	})
	switch choice := root.Get("tool_choice"); choice.Get("type").Str {
	case "any":
		r.mustCall = "*"
	case "tool":
		r.mustCall = choice.Get("name").Str
	case "none":
		r.tools = nil
	}
	return r
}

func readResponses(root gjson.Result) *request {
	r := readCommon(root)
	r.outputMax = root.Get("max_output_tokens").Int()
	r.schema = root.Get("text.format.schema")
	input := root.Get("input")
	if input.Type == gjson.String {
		r.text = input.Str
	}
	body.Visit(input, func(_, item gjson.Result) bool {
		if item.Get("role").Str == "user" {
			r.text = textOf(item.Get("content"))
		}
		return true
	})
	r.inputBytes = len(input.Raw)
	return r
}

func readCommon(root gjson.Result) *request {
	return &request{model: root.Get("model").Str, stream: root.Get("stream").Bool()}
}

// textOf joins the texts of a content.
func textOf(content gjson.Result) string {
	if content.Type == gjson.String {
		return content.Str
	}
	var texts []string
	body.Visit(content, func(_, part gjson.Result) bool {
		if text := part.Get("text").Str; text != "" {
			texts = append(texts, text)
		}
		return true
	})
	return strings.Join(texts, " ")
}

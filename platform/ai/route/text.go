package route

import (
	"strings"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

// said are the fields of a request that hold what is said to a model.
var said = []string{"messages", "system", "input", "instructions", "prompt"}

// requestText returns all that a request says.
func requestText(o *body.Object) string {
	var b strings.Builder
	for _, name := range said {
		appendTexts(&b, o.Get(name))
	}
	return b.String()
}

// appendTexts appends the texts of a value, but for what names a kind or is a file.
func appendTexts(b *strings.Builder, value gjson.Result) {
	if value.Type == gjson.String {
		appendText(b, value.Str)
		return
	}
	body.Visit(value, func(key, inner gjson.Result) bool {
		if value.IsObject() && labels[key.Str] && inner.Type == gjson.String {
			return true
		}
		appendTexts(b, inner)
		return true
	})
}

// labels are the members of messages that are for programs.
var labels = map[string]bool{"role": true, "type": true, "id": true, "tool_call_id": true, "tool_use_id": true, "media_type": true, "detail": true}

func appendText(b *strings.Builder, text string) {
	if text == "" || strings.HasPrefix(text, "data:") {
		return
	}
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	b.WriteString(text)
}

// answerText returns what an answer says, whatever its format.
func answerText(answer []byte) string {
	var b strings.Builder
	root := gjson.ParseBytes(answer)
	for _, path := range []string{"choices", "content", "output"} {
		appendTexts(&b, root.Get(path))
	}
	return b.String()
}

// streamText returns what the parts of an answer say, whatever their format. Parts of
// one text are put together, so that nothing hides between two of them.
func streamText(frames []byte) string {
	var text strings.Builder
	tools := make(map[int64]*strings.Builder)
	reader := sse.NewReader(strings.NewReader(string(frames)), len(frames)+1)
	for {
		e, err := reader.Next()
		if err != nil {
			break
		}
		event := gjson.ParseBytes(e.Data)
		if delta := event.Get("delta"); delta.Type == gjson.String { // responses
			text.WriteString(delta.Str)
		} else if part := delta.Get("partial_json").Str; part != "" { // messages
			builderAt(tools, event.Get("index").Int()).WriteString(part)
		} else {
			text.WriteString(delta.Get("text").Str)
		}
		body.Visit(event.Get("choices"), func(_, choice gjson.Result) bool { // chat
			text.WriteString(choice.Get("delta.content").Str)
			body.Visit(choice.Get("delta.tool_calls"), func(_, call gjson.Result) bool {
				builderAt(tools, call.Get("index").Int()).WriteString(call.Get("function.arguments").Str)
				return true
			})
			return true
		})
	}
	for _, tool := range tools {
		appendText(&text, tool.String())
	}
	return text.String()
}

func builderAt(tools map[int64]*strings.Builder, index int64) *strings.Builder {
	if tools[index] == nil {
		tools[index] = new(strings.Builder)
	}
	return tools[index]
}

// rewrite changes the texts of a value, and nothing else.
func rewrite(value gjson.Result, change func(string) string) string {
	switch {
	case value.Type == gjson.String:
		if strings.HasPrefix(value.Str, "data:") {
			return value.Raw
		}
		if inner := strings.TrimSpace(value.Str); strings.HasPrefix(inner, "{") && gjson.Valid(inner) { // arguments of a tool
			return body.Quote(rewrite(gjson.Parse(inner), change))
		}
		return body.Quote(change(value.Str))
	case value.Type == gjson.Number:
		if changed := change(value.Raw); changed != value.Raw {
			return body.Quote(changed)
		}
		return value.Raw
	case value.IsArray() || value.IsObject():
		var b strings.Builder
		b.WriteString(value.Raw[:1])
		first := true
		body.Visit(value, func(key, inner gjson.Result) bool {
			if !first {
				b.WriteByte(',')
			}
			first = false
			if value.IsObject() {
				b.WriteString(key.Raw)
				b.WriteByte(':')
				if labels[key.Str] || key.Str == "data" {
					b.WriteString(inner.Raw)
					return true
				}
			}
			b.WriteString(rewrite(inner, change))
			return true
		})
		b.WriteString(map[bool]string{true: "]", false: "}"}[value.IsArray()])
		return b.String()
	}
	return value.Raw
}

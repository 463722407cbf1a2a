package route

import (
	"strings"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

// said are the fields of a request that hold what is said to a model.
var said = []string{"messages", "system", "input", "instructions", "prompt", "prediction"}

// labels are the members of messages that are for programs.
var labels = map[string]bool{"role": true, "type": true, "id": true, "tool_call_id": true, "tool_use_id": true, "media_type": true, "detail": true}

// silent reports whether a member of a message says nothing: it is for programs, or a
// file. What is within the input of a tool says something whatever it is called.
func silent(object gjson.Result, key string, value gjson.Result) bool {
	if value.Type != gjson.String {
		return false
	}
	switch key {
	case "file_data":
		return true
	case "url", "image_url":
		return strings.HasPrefix(value.Str, "data:")
	case "data":
		return object.Get("type").Str == "base64" || object.Get("format").Exists() // a source, or audio
	}
	return labels[key]
}

// isInput reports whether a member is what a model has given to a tool.
func isInput(object gjson.Result, key string) bool {
	return key == "input" && strings.HasSuffix(object.Get("type").Str, "tool_use")
}

// requestText returns all that a request says.
func requestText(o *body.Object) string {
	var b strings.Builder
	for _, name := range said {
		appendTexts(&b, o.Get(name), false)
	}
	return b.String()
}

// appendTexts appends the texts of a value; of the input of a tool, all of them.
func appendTexts(b *strings.Builder, value gjson.Result, input bool) {
	if value.Type == gjson.String {
		appendText(b, value.Str)
		return
	}
	body.Visit(value, func(key, inner gjson.Result) bool {
		object := value.IsObject()
		if input || !object || !silent(value, key.Str, inner) {
			appendTexts(b, inner, input || object && isInput(value, key.Str))
		}
		return true
	})
}

func appendText(b *strings.Builder, text string) {
	if text == "" {
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
		appendTexts(&b, root.Get(path), false)
	}
	return b.String()
}

// streamText returns what the parts of an answer say, whatever their format. Parts of
// one text are put together, so that nothing hides between two of them, and those of
// different texts are not, so that nothing hides behind another.
func streamText(frames []byte) string {
	var g gathered
	reader := sse.NewReader(strings.NewReader(string(frames)), len(frames)+1)
	for {
		e, err := reader.Next()
		if err != nil {
			return g.String()
		}
		event := gjson.ParseBytes(e.Data)
		body.Visit(event.Get("choices"), func(_, choice gjson.Result) bool { // chat
			at := choice.Get("index").Raw
			body.Visit(choice.Get("delta"), func(key, part gjson.Result) bool {
				if !labels[key.Str] && part.Type == gjson.String {
					g.add(at+key.Str, part.Str)
				}
				return true
			})
			body.Visit(choice.Get("delta.tool_calls"), func(_, call gjson.Result) bool {
				tool := at + "tool" + call.Get("index").Raw
				g.add(tool+"name", call.Get("function.name").Str)
				g.add(tool, call.Get("function.arguments").Str)
				return true
			})
			return true
		})
		delta, at := event.Get("delta"), event.Get("index").Raw
		switch {
		case delta.Type == gjson.String: // responses
			g.add(event.Get("type").Str+event.Get("output_index").Raw+"."+event.Get("content_index").Raw, delta.Str)
		case delta.IsObject(): // messages
			for _, part := range []string{"text", "thinking", "partial_json"} {
				g.add(at+part, delta.Get(part).Str)
			}
		case event.Get("content_block").IsObject():
			var b strings.Builder
			appendTexts(&b, event.Get("content_block"), false)
			g.add(at+"text", b.String())
		}
	}
}

// gathered are texts that come in parts, in the order in which they began.
type gathered struct {
	at    map[string]int
	texts []*strings.Builder
}

func (g *gathered) add(name, part string) {
	if part == "" {
		return
	}
	i, known := g.at[name]
	if !known {
		if g.at == nil {
			g.at = make(map[string]int)
		}
		i = len(g.texts)
		g.at[name], g.texts = i, append(g.texts, new(strings.Builder))
	}
	g.texts[i].WriteString(part)
}

// String returns all of them.
func (g *gathered) String() string {
	var b strings.Builder
	for _, text := range g.texts {
		appendText(&b, text.String())
	}
	return b.String()
}

// rewrite changes the texts of a value, and nothing else; of the input of a tool, all of
// them.
func rewrite(value gjson.Result, input bool, change func(string) string) string {
	switch {
	case value.Type == gjson.String:
		if inner := strings.TrimSpace(value.Str); strings.HasPrefix(inner, "{") && gjson.Valid(inner) { // arguments of a tool
			return body.Quote(rewrite(gjson.Parse(inner), true, change))
		}
		return body.Quote(change(value.Str))
	case value.Type == gjson.Number:
		if changed := change(value.Raw); changed != value.Raw {
			return body.Quote(changed)
		}
		return value.Raw
	case value.IsArray() || value.IsObject():
		object, brackets := value.IsObject(), "[]"
		if object {
			brackets = "{}"
		}
		var b strings.Builder
		b.WriteByte(brackets[0])
		body.Visit(value, func(key, inner gjson.Result) bool {
			if b.Len() > 1 {
				b.WriteByte(',')
			}
			if object {
				b.WriteString(key.Raw)
				b.WriteByte(':')
				if !input && silent(value, key.Str, inner) {
					b.WriteString(inner.Raw)
					return true
				}
			}
			b.WriteString(rewrite(inner, input || object && isInput(value, key.Str), change))
			return true
		})
		b.WriteByte(brackets[1])
		return b.String()
	}
	return value.Raw
}

package gemini

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/openai"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

// Usage reads the usage of an answer. Input is told with what came from a cache.
func Usage(answer []byte) (ai.Usage, bool) { return readUsage(gjson.GetBytes(answer, "usageMetadata")) }

func readUsage(u gjson.Result) (ai.Usage, bool) {
	if !u.IsObject() {
		return ai.Usage{}, false
	}
	cached := u.Get("cachedContentTokenCount").Int()
	return ai.Usage{
		Input:       u.Get("promptTokenCount").Int() - cached + u.Get("toolUsePromptTokenCount").Int(),
		CachedInput: cached, Output: u.Get("candidatesTokenCount").Int(), Reasoning: u.Get("thoughtsTokenCount").Int(),
	}.Sane(), true
}

// finishOf tells why an answer ended in the words of chat.
func finishOf(reason string, tools int) string {
	switch reason {
	case "MAX_TOKENS":
		return "length"
	case "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY":
		return "content_filter"
	}
	if tools > 0 {
		return "tool_calls"
	}
	return "stop"
}

// part is what one part of a content holds.
type part struct {
	text    string
	thought bool
	call    *openai.ToolCall
}

func readPart(p gjson.Result) part {
	if call := p.Get("functionCall"); call.Exists() {
		tool := &openai.ToolCall{ID: call.Get("id").Str, Name: call.Get("name").Str, Arguments: "{}"}
		if arguments := call.Get("args"); arguments.IsObject() {
			tool.Arguments = gjson.Get(arguments.Raw, "@ugly").Raw
		}
		if tool.ID == "" { // chat needs one
			tool.ID = "call_" + strings.ReplaceAll(uuid.NewString(), "-", "")
		}
		if signature := p.Get("thoughtSignature").Str; signature != "" {
			tool.Extra = `{"google":{"thought_signature":` + body.Quote(signature) + `}}`
		}
		return part{call: tool}
	}
	return part{text: p.Get("text").Str, thought: p.Get("thought").Bool()}
}

// toChat makes a completion of an answer.
func toChat(answer []byte, model string) ([]byte, error) {
	if !gjson.ValidBytes(answer) {
		return nil, wire.BadAnswer("it is no JSON")
	}
	root := gjson.ParseBytes(answer)
	candidate := root.Get("candidates.0")
	blocked := root.Get("promptFeedback.blockReason").Exists()
	if !candidate.Exists() && !blocked {
		return nil, wire.BadAnswer("it holds no candidate")
	}
	c := openai.Completion{ID: idOf(root), Model: modelOf(root, model)}
	c.Usage, _ = readUsage(root.Get("usageMetadata"))
	var text, thought strings.Builder
	body.Visit(candidate.Get("content.parts"), func(_, p gjson.Result) bool {
		switch read := readPart(p); {
		case read.call != nil:
			c.ToolCalls = append(c.ToolCalls, *read.call)
		case read.thought:
			thought.WriteString(read.text)
		default:
			text.WriteString(read.text)
		}
		return true
	})
	c.Content, c.Reasoning = text.String(), thought.String()
	c.Finish = finishOf(candidate.Get("finishReason").Str, len(c.ToolCalls))
	if blocked {
		c.Finish = "content_filter"
	}
	return json.Marshal(c)
}

func idOf(root gjson.Result) string {
	if id := root.Get("responseId").Str; id != "" {
		return id
	}
	return "chatcmpl-" + strings.ReplaceAll(uuid.NewString(), "-", "")
}

func modelOf(root gjson.Result, asked string) string {
	if version := root.Get("modelVersion").Str; version != "" {
		return version
	}
	return asked
}

// chatStream makes chunks of an answer in parts. This format has no mark of the end:
// the last part is the one with a finishReason, and what follows it.
type chatStream struct {
	usageAsked bool
	model      string
	chunks     openai.Chunks
	usage      ai.Usage
	told       bool
	ended      bool
	written    int64
}

// Event turns one part into chunks.
func (s *chatStream) Event(dst []byte, e sse.Event) ([]byte, error) {
	if e.Data == nil {
		return append(dst, e.Raw...), nil
	}
	if !gjson.ValidBytes(e.Data) {
		return dst, wire.BadAnswer("a part is no JSON")
	}
	root := gjson.ParseBytes(e.Data)
	if root.Get("error").Exists() {
		return dst, ReadError(http.StatusBadGateway, e.Data)
	}
	if s.ended {
		return dst, nil
	}
	if !s.chunks.Begun() {
		dst = s.chunks.Begin(dst, idOf(root), modelOf(root, s.model))
	}
	if usage, ok := readUsage(root.Get("usageMetadata")); ok {
		s.usage, s.told = usage, true
	}
	candidate := root.Get("candidates.0")
	body.Visit(candidate.Get("content.parts"), func(_, p gjson.Result) bool {
		read := readPart(p)
		switch {
		case read.call != nil:
			s.written += int64(len(read.call.Arguments))
			dst, _ = s.chunks.Tool(dst, *read.call)
		case read.text == "":
		case read.thought:
			s.written += int64(len(read.text))
			dst = s.chunks.Reasoning(dst, read.text)
		default:
			s.written += int64(len(read.text))
			dst = s.chunks.Content(dst, read.text)
		}
		return true
	})
	reason := candidate.Get("finishReason").Str
	if root.Get("promptFeedback.blockReason").Exists() {
		reason = "SAFETY"
	}
	if reason == "" {
		return dst, nil
	}
	s.ended = true
	usage := &s.usage
	if !s.usageAsked {
		usage = nil
	}
	return s.chunks.End(dst, finishOf(reason, s.chunks.Tools()), usage), nil
}

// Ended reports that the last part came.
func (s *chatStream) Ended() bool { return s.ended }

// Usage returns what the parts have told.
func (s *chatStream) Usage() (ai.Usage, bool) { return s.usage, s.told && s.ended }

// Written returns how much text came.
func (s *chatStream) Written() int64 { return s.written }

// ReadError reads an answer that is no success.
func ReadError(status int, answer []byte) *wire.Error {
	e := &wire.Error{Status: status, Code: "upstream_error"}
	if gjson.ValidBytes(answer) {
		root := gjson.ParseBytes(answer)
		if root.IsArray() { // so a stream answers that fails before it begins
			root = root.Get("0")
		}
		e.Message = root.Get("error.message").String()
		if code := root.Get("error.status").Str; code != "" {
			e.Code = strings.ToLower(code)
		}
		if code := root.Get("error.code").Int(); code >= 400 && code < 600 {
			e.Status = int(code)
		}
	}
	if e.Message == "" {
		e.Message = "The upstream has answered " + strconv.Itoa(status) + "."
	}
	return e
}

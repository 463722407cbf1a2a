package openai

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

// choicesMax bounds the choices of which a stream remembers whether they began.
const choicesMax = 64

// chunkBytes is about what a chunk holds beside the text of its delta.
const chunkBytes = 150

var (
	done         = []byte("[DONE]")
	usageKey     = []byte(`"usage"`)
	usageNull    = []byte(`,"usage":null`)
	toolCallsKey = []byte(`"tool_calls"`)
	finishKey    = []byte(`"finish_reason"`)
	errorKey     = []byte(`"error"`)
	choicesKey   = []byte(`"choices"`)
	zeroIndex    = []byte(`"index":0`) // another choice than the first one may begin
)

// chatStream passes chunks on. What it looks for in each it finds by its bytes, so
// that a chunk is seldom parsed: within a text of JSON a quote has a backslash before
// it, so the keys it looks for cannot be in one.
type chatStream struct {
	usageAsked bool
	began      uint64 // the choices that have had their role, as bits
	ended      bool
	usage      ai.Usage
	told       bool
	written    int64
	tools      int // calls without an index that began so far
}

// Event passes one chunk on.
func (s *chatStream) Event(dst []byte, e sse.Event) ([]byte, error) {
	data := e.Data
	switch {
	case data == nil:
		return append(dst, e.Raw...), nil
	case bytes.Equal(bytes.TrimSpace(data), done):
		s.ended = true
		return append(dst, "data: [DONE]\n\n"...), nil
	case len(data) == 0:
		return dst, nil
	}
	if e.Name == "error" || bytes.Contains(data, errorKey) && !bytes.Contains(data, choicesKey) {
		return dst, streamError(data)
	}
	s.written += max(int64(len(data))-chunkBytes, 1)
	changed := false
	if bytes.Contains(data, usageKey) {
		drop := s.noteUsage(&data, &changed)
		if drop {
			return dst, nil
		}
	}
	if s.began == 0 || bytes.Contains(data, toolCallsKey) || !bytes.Contains(data, finishKey) || !bytes.Contains(data, zeroIndex) {
		repaired, err := s.repair(data)
		if err != nil {
			return dst, err
		}
		if repaired != nil {
			data, changed = repaired, true
		}
	}
	if !changed && e.Name == "" && whole(e.Raw) {
		return append(dst, e.Raw...), nil
	}
	return sse.Append(dst, e.Name, data), nil
}

// whole reports whether a frame can be passed on as it is: it ends with an empty line.
func whole(raw []byte) bool {
	return bytes.HasSuffix(raw, []byte("\n\n")) || bytes.HasSuffix(raw, []byte("\r\n\r\n"))
}

// noteUsage remembers what a chunk tells of the usage, and takes it out when the client
// did not ask. It reports whether nothing is left of the chunk.
func (s *chatStream) noteUsage(data *[]byte, changed *bool) (drop bool) {
	if i := bytes.Index(*data, usageNull); i >= 0 {
		if !s.usageAsked {
			*data = append(append(make([]byte, 0, len(*data)), (*data)[:i]...), (*data)[i+len(usageNull):]...)
			*changed = true
		}
		return false
	}
	usage := gjson.GetBytes(*data, "usage")
	if read, ok := readChatUsage(usage); ok {
		s.usage, s.told = read, true
	}
	if s.usageAsked || !usage.Exists() {
		return false
	}
	if choices := gjson.GetBytes(*data, "choices"); usage.IsObject() && choices.IsArray() && choices.Get("#").Int() == 0 {
		return true
	}
	if without, err := sjson.DeleteBytes(*data, "usage"); err == nil {
		*data, *changed = without, true
	}
	return false
}

// repair puts in what clients rely on and some providers leave out: the role in the
// first chunk of a choice, the index of each tool call, and finish_reason. It returns
// nil when nothing is missing.
func (s *chatStream) repair(data []byte) ([]byte, error) {
	if !gjson.ValidBytes(data) {
		return nil, wire.BadAnswer("a chunk is no JSON")
	}
	var fixed []byte
	set := func(path, raw string) {
		from := data
		if fixed != nil {
			from = fixed
		}
		if next, err := sjson.SetRawBytes(from, path, []byte(raw)); err == nil {
			fixed = next
		}
	}
	body.Visit(gjson.GetBytes(data, "choices"), func(at, choice gjson.Result) bool {
		here := fmt.Sprintf("choices.%d.", at.Int())
		index := choice.Get("index")
		if !index.Exists() {
			set(here+"index", strconv.FormatInt(at.Int(), 10))
			index = at
		}
		delta := choice.Get("delta")
		if n := index.Int(); n >= 0 && n < choicesMax && s.began&(1<<n) == 0 {
			s.began |= 1 << n
			if delta.Get("role").Str == "" {
				set(here+"delta.role", `"assistant"`)
			}
		}
		if !choice.Get("finish_reason").Exists() {
			set(here+"finish_reason", "null")
		}
		body.Visit(delta.Get("tool_calls"), func(k, call gjson.Result) bool {
			if !call.Get("index").Exists() {
				if call.Get("id").Str != "" || s.tools == 0 {
					s.tools++
				}
				set(fmt.Sprintf("%sdelta.tool_calls.%d.index", here, k.Int()), strconv.Itoa(s.tools-1))
			}
			return true
		})
		return true
	})
	return fixed, nil
}

// Ended reports that [DONE] came.
func (s *chatStream) Ended() bool { return s.ended }

// Usage returns what the last chunk has told.
func (s *chatStream) Usage() (ai.Usage, bool) { return s.usage, s.told }

// Written returns about how much text came.
func (s *chatStream) Written() int64 { return s.written }

// responsesStream passes the events of a response on.
type responsesStream struct {
	ended   bool
	usage   ai.Usage
	told    bool
	written int64
}

// Event passes one event on.
func (s *responsesStream) Event(dst []byte, e sse.Event) ([]byte, error) {
	if e.Data == nil {
		return append(dst, e.Raw...), nil
	}
	name := e.Name
	if name == "" {
		name = gjson.GetBytes(e.Data, "type").Str
	}
	switch name {
	case "response.completed", "response.incomplete", "response.failed":
		s.ended = true
		if usage, ok := readResponsesUsage(gjson.GetBytes(e.Data, "response.usage")); ok {
			s.usage, s.told = usage, true
		}
	case "error":
		return dst, streamError(e.Data)
	default:
		if delta := gjson.GetBytes(e.Data, "delta"); delta.Type == gjson.String {
			s.written += int64(len(delta.Str))
		}
	}
	if whole(e.Raw) {
		return append(dst, e.Raw...), nil
	}
	return sse.Append(dst, e.Name, e.Data), nil
}

// Ended reports that the response has ended, well or not.
func (s *responsesStream) Ended() bool { return s.ended }

// Usage returns what the end has told.
func (s *responsesStream) Usage() (ai.Usage, bool) { return s.usage, s.told }

// Written returns how much text came.
func (s *responsesStream) Written() int64 { return s.written }

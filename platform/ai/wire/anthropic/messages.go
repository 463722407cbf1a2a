package anthropic

import (
	"net/http"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

// Version is the version of the format, which a request must name.
const Version = "2023-06-01"

const path = "/messages"

func header() http.Header { return http.Header{"Anthropic-Version": {Version}} }

// Messages makes the exchange for messages with an upstream that speaks this format.
func Messages(o *body.Object, options wire.Options) (*wire.Exchange, error) {
	o = o.Clone()
	if o.Get("model").Str != options.Model {
		o.SetText("model", options.Model)
	}
	return &wire.Exchange{
		Path: path, Body: o.Bytes(), Header: header(), Usage: Usage, Failure: ReadError,
		Stream: func() wire.Stream { return new(messagesStream) },
	}, nil
}

// Usage reads the usage of a message.
func Usage(answer []byte) (ai.Usage, bool) { return readUsage(gjson.GetBytes(answer, "usage")) }

// readUsage takes what this format counts, in which input is without what was cached.
func readUsage(u gjson.Result) (ai.Usage, bool) {
	if !u.IsObject() {
		return ai.Usage{}, false
	}
	return ai.Usage{
		Input: u.Get("input_tokens").Int(), CachedInput: u.Get("cache_read_input_tokens").Int(),
		CacheWrite: u.Get("cache_creation_input_tokens").Int(), Output: u.Get("output_tokens").Int(),
	}.Sane(), true
}

// counter follows the usage through the events of a stream.
type counter struct {
	usage   ai.Usage
	told    bool // by the last event that tells it
	ended   bool
	written int64
}

// note takes what an event tells of the usage.
func (c *counter) note(kind string, event gjson.Result) {
	switch kind {
	case "message_start":
		c.usage, _ = readUsage(event.Get("message.usage"))
	case "content_block_delta":
		delta := event.Get("delta")
		c.written += int64(len(delta.Get("text").Str) + len(delta.Get("partial_json").Str) + len(delta.Get("thinking").Str))
	case "message_delta":
		u := event.Get("usage")
		if !u.IsObject() {
			return
		}
		c.told = true
		c.usage.Output = max(u.Get("output_tokens").Int(), 0)
		// Those of the input are told again by some, and are totals then.
		for field, into := range map[string]*int64{
			"input_tokens": &c.usage.Input, "cache_read_input_tokens": &c.usage.CachedInput, "cache_creation_input_tokens": &c.usage.CacheWrite,
		} {
			if n := u.Get(field); n.Type == gjson.Number && n.Int() > 0 {
				*into = n.Int()
			}
		}
	case "message_stop":
		c.ended = true
	}
}

// Ended reports that the message has stopped.
func (c *counter) Ended() bool { return c.ended }

// Usage returns what the last event has told.
func (c *counter) Usage() (ai.Usage, bool) { return c.usage, c.told }

// Written returns how much text came.
func (c *counter) Written() int64 { return c.written }

// kindOf returns what an event is. Some servers leave the field event out.
func kindOf(e sse.Event) string {
	if e.Name != "" {
		return e.Name
	}
	return gjson.GetBytes(e.Data, "type").Str
}

// messagesStream passes events on.
type messagesStream struct{ counter }

// Event passes one event on.
func (s *messagesStream) Event(dst []byte, e sse.Event) ([]byte, error) {
	if e.Data == nil {
		return append(dst, e.Raw...), nil
	}
	kind := kindOf(e)
	switch kind {
	case "error":
		return dst, ReadError(http.StatusBadGateway, e.Data)
	case "message_start", "content_block_delta", "message_delta", "message_stop":
		s.note(kind, gjson.ParseBytes(e.Data))
	}
	return sse.Append(dst, kind, e.Data), nil
}

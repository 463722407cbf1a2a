package upstream

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
)

// plain are the values of the fields that change what a token costs with which it costs
// what the price catalogue says.
var plain = map[string][]string{
	"service_tier": {"auto", "default", "flex", "standard_only"}, "speed": {"standard"}, "inference_geo": {"global"},
}

// checkPriced refuses wishes whose price is another than that of the model.
func checkPriced(o *body.Object) error {
	for _, field := range []string{"service_tier", "speed", "inference_geo"} {
		if !isPlain(field, o.Get(field)) {
			return unpriced(field, fmt.Sprintf("What %s %q costs is not known here.", field, o.Get(field).String()))
		}
	}
	for _, field := range []string{"models", "fallbacks"} { // of routers such as OpenRouter and LiteLLM
		if list := o.Get(field); list.Exists() && list.Type != gjson.Null {
			return unpriced(field, "What other models cost that the upstream may choose is not known here: name one model, and leave its fallback to this gateway.")
		}
	}
	if o.Get("background").Bool() {
		return wire.Invalid("background", "A response cannot be made in the background of the provider: its cost would not be seen. Send Prefer: respond-async instead.")
	}
	return nil
}

func isPlain(field string, value gjson.Result) bool {
	if !value.Exists() || value.Type == gjson.Null || value.Type == gjson.String && value.Str == "" {
		return true
	}
	for _, known := range plain[field] {
		if value.Type == gjson.String && value.Str == known {
			return true
		}
	}
	return false
}

func unpriced(field, message string) error {
	return &wire.Error{Status: http.StatusUnprocessableEntity, Code: "price_unknown", Param: field, Message: message}
}

// bounds are the fields in which formats take the bound of the output.
var bounds = map[wire.Format][]string{
	wire.Chat: {"max_tokens", "max_completion_tokens"}, wire.Messages: {"max_tokens"}, wire.Responses: {"max_output_tokens"},
}

// outputAsked returns the bound that a request sets to the output of one choice; 0 when
// it sets none. What only another format calls so bounds nothing, but where several are
// set the largest counts, for nobody knows which of them an upstream takes.
func outputAsked(format wire.Format, o *body.Object) int64 {
	largest := func(names []string) (bound int64) {
		for _, name := range names {
			if n := o.Get(name); n.Type == gjson.Number {
				bound = max(bound, n.Int())
			}
		}
		return bound
	}
	own := largest(bounds[format])
	if own <= 0 {
		return 0
	}
	for other := range bounds {
		own = max(own, largest(bounds[other]))
	}
	return own
}

// What the content of a request is taken for. A token has two bytes of JSON at least,
// but for texts made to be otherwise.
const (
	bytesPerToken      = 2
	bytesPerTokenFiles = 4 // in base64
	imageTokens        = 6000
	// elsewhereTokens is for what a request only points to: a file, or what was said
	// before. It is what most models take at all.
	elsewhereTokens = 200_000
)

// inputMost bounds the tokens of a request. What is in base64 is an image or a file, of
// which the size in bytes says little.
func inputMost(o *body.Object) int64 {
	data := o.Bytes()
	m := meter{bytes: int64(len(data))}
	for _, field := range []string{"previous_response_id", "conversation", "prompt"} {
		if there := o.Get(field); there.Exists() && there.Type != gjson.Null {
			m.tokens += elsewhereTokens
		}
	}
	if mayHoldFiles(data) {
		for _, field := range []string{"messages", "input", "system"} {
			m.measure(o.Get(field))
		}
	}
	return m.tokens + max(m.bytes, 0)/bytesPerToken + 1
}

// mayHoldFiles looks for what every part that is a file has in it, if only in escapes, so
// that most requests need no closer look.
func mayHoldFiles(data []byte) bool {
	for _, sign := range [][]byte{[]byte("image"), []byte("file"), []byte(`"document"`), []byte("audio"), []byte(`\u`)} {
		if bytes.Contains(data, sign) {
			return true
		}
	}
	return false
}

// meter counts what is no text.
type meter struct {
	tokens int64
	bytes  int64 // of what is text
}

// measure looks for the parts of messages that are files. What is within the arguments
// or the input of a tool is text, whatever it looks like.
func (m *meter) measure(value gjson.Result) {
	if !value.IsArray() && !value.IsObject() {
		return
	}
	if value.IsObject() && m.part(value) {
		return
	}
	body.Visit(value, func(key, inner gjson.Result) bool {
		if value.IsArray() || key.Str == "content" || key.Str == "output" {
			m.measure(inner)
		}
		return true
	})
}

// part counts a part that is a file, and reports whether it is one.
func (m *meter) part(p gjson.Result) bool {
	switch p.Get("type").Str {
	case "image_url": // chat
		m.image(p.Get("image_url.url"))
	case "input_image": // responses
		m.image(p.Get("image_url"))
	case "image": // messages
		m.image(p.Get("source.data"))
	case "input_audio", "audio":
		m.file(p.Get("input_audio.data"))
	case "file": // chat
		m.file(p.Get("file.file_data"))
	case "input_file": // responses
		m.file(p.Get("file_data"))
	case "document": // messages
		switch p.Get("source.type").Str {
		case "text":
		case "content":
			m.measure(p.Get("source"))
		default:
			m.file(p.Get("source.data"))
		}
	default:
		return false
	}
	return true
}

// image counts an image, wherever it is.
func (m *meter) image(data gjson.Result) {
	m.tokens += imageTokens
	m.bytes -= int64(len(data.Str))
}

// file counts a file: by its size when it is there.
func (m *meter) file(data gjson.Result) {
	if strings.TrimSpace(data.Str) == "" {
		m.tokens += elsewhereTokens
		return
	}
	m.tokens += int64(len(data.Str)/bytesPerTokenFiles) + 1
	m.bytes -= int64(len(data.Str))
}

package route

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/body"
)

// grownMax bounds what is put by for a request because of the length that it announces.
const grownMax = 64 << 10

// read reads and checks the request.
func (x *exchange) read() error {
	if kind := x.r.Header.Get("Content-Type"); kind != "" && !strings.HasPrefix(strings.ToLower(kind), "application/json") {
		return &wire.Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type", Message: "The body must be JSON."}
	}
	if encoding := x.r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return &wire.Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_encoding", Message: "The body must not be encoded."}
	}
	var data bytes.Buffer
	data.Grow(int(min(max(x.r.ContentLength, 0), grownMax)) + bytes.MinRead)
	_, err := data.ReadFrom(http.MaxBytesReader(x.w, x.r.Body, x.h.config.BodyBytesMax))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &wire.Error{
			Status: http.StatusRequestEntityTooLarge, Code: "body_too_large",
			Message: "The body has more than " + strconv.FormatInt(large.Limit, 10) + " bytes.",
		}
	case err != nil:
		return &wire.Error{Status: http.StatusBadRequest, Code: "body_unreadable", Message: "The body did not arrive."}
	}
	o, err := body.Parse(data.Bytes())
	if err != nil {
		return wire.Invalid("", sentence(err.Error()))
	}
	q := &x.call.Request
	q.Body, q.Model = o, o.Get("model").Str
	if q.Model == "" {
		return wire.Invalid("model", "The field model must name a model.")
	}
	q.Stream = x.call.Format != wire.Embeddings && o.Get("stream").Bool()
	q.UsageAsked = o.Get("stream_options").Get("include_usage").Bool()
	if x.call.Format == wire.Messages {
		if beta := x.r.Header.Values("Anthropic-Beta"); len(beta) > 0 {
			q.Header = http.Header{"Anthropic-Beta": beta}
		}
	}
	return nil
}

// sentence makes a message of an error.
func sentence(text string) string {
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// prefersAsync reports whether the client does not want to wait (RFC 7240).
func prefersAsync(h http.Header) bool {
	for _, line := range h.Values("Prefer") {
		for preference := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(preference, ";")
			if strings.EqualFold(strings.TrimSpace(name), "respond-async") {
				return true
			}
		}
	}
	return false
}

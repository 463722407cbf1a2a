package wire

import (
	"net/http"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

// Format is a wire format of an endpoint.
type Format string

// The formats.
const (
	Chat       Format = "chat"       // chat/completions of OpenAI
	Embeddings Format = "embeddings" // embeddings of OpenAI
	Responses  Format = "responses"  // responses of OpenAI
	Messages   Format = "messages"   // messages of Anthropic
)

// Options are what an exchange depends on beside its request.
type Options struct {
	// Model is what the upstream calls the model.
	Model string
	// Stream says that the answer comes in parts.
	Stream bool
	// UsageAsked says that the client has asked for the usage within a stream of chat.
	UsageAsked bool
	// OutputMax is the bound of the output where the client sets none and the upstream
	// insists on one.
	OutputMax int64
	// CompletionTokens says that the upstream calls that bound max_completion_tokens.
	CompletionTokens bool
}

// Exchange is one request as an upstream wants it, and the way back for its answer.
type Exchange struct {
	// Path goes after the base URL of the upstream.
	Path string
	Body []byte
	// Header is what the format asks for beside credentials.
	Header http.Header
	// Response turns the upstream's answer into the client's; nil: it passes as it is.
	Response func(answer []byte) ([]byte, error)
	// Usage reads what was used from the upstream's answer.
	Usage func(answer []byte) (ai.Usage, bool)
	// Stream begins an answer in parts.
	Stream func() Stream
	// Failure reads an answer that is no success.
	Failure func(status int, answer []byte) *Error
}

// Stream turns the events of an upstream into those of a client. It is not safe for
// concurrent use.
type Stream interface {
	// Event appends to dst the frames that the client gets for one event. An error is
	// an *Error when the upstream has told of one.
	Event(dst []byte, e sse.Event) ([]byte, error)
	// Ended reports that the upstream has said that it is through. A stream that stops
	// before was cut.
	Ended() bool
	// Usage returns what the upstream has said so far about what was used.
	Usage() (ai.Usage, bool)
	// Written returns how many bytes of text the model has written so far, to estimate
	// the usage of a stream that was cut.
	Written() int64
}

package upstream

import (
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/anthropic"
	"github.com/countermand/countermand/platform/ai/wire/body"
	"github.com/countermand/countermand/platform/ai/wire/gemini"
	"github.com/countermand/countermand/platform/ai/wire/openai"
)

type builder func(*body.Object, wire.Options) (*wire.Exchange, error)

// over makes exchanges for messages with an upstream of chat.
func over(chat builder) builder {
	return func(o *body.Object, options wire.Options) (*wire.Exchange, error) {
		return anthropic.OverChat(o, options, chat)
	}
}

// builders tell how each format reaches each wire. One that is missing cannot.
var builders = map[Wire]map[wire.Format]builder{
	OpenAI: {
		wire.Chat: openai.Chat, wire.Messages: over(openai.Chat), wire.Embeddings: openai.Embeddings, wire.Responses: openai.Responses,
	},
	Anthropic: {wire.Chat: anthropic.Chat, wire.Messages: anthropic.Messages},
	Gemini:    {wire.Chat: gemini.Chat, wire.Messages: over(gemini.Chat), wire.Embeddings: gemini.Embeddings},
	Simulated: {
		wire.Chat: openai.Chat, wire.Messages: anthropic.Messages, wire.Embeddings: openai.Embeddings, wire.Responses: openai.Responses,
	},
}

// insists reports whether a wire wants a bound of the output in each request.
func insists(w Wire, format wire.Format) bool { return w == Anthropic && format == wire.Chat }

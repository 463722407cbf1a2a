// Package wire holds what the wire formats of AI models have in common: an [Exchange]
// is one request as an upstream wants it and the way back for its answer, a [Stream]
// is that way back for an answer in parts, and an [Error] is a failure that every
// format can tell.
//
// Where a client and an upstream speak one format their bytes pass as they are, but
// for the name of the model and for what has to be asked for. Where they differ,
// packages openai, anthropic and gemini translate. The chat format of OpenAI is the one
// in the middle.
package wire

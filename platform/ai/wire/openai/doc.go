// Package openai speaks the wire formats of OpenAI, which most providers speak too:
// chat completions, embeddings and responses. Its bytes pass as they are. What is
// changed in a request is the model and, in a stream, that the usage is asked for; in
// a stream, what the client did not ask for is taken out again, and what some
// providers leave out, on which clients rely, is put in.
package openai

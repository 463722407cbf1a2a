// Package gemini lets clients of chat and embeddings talk to an upstream that speaks
// the native format of Google's Gemini. Google also has an endpoint in the format of
// OpenAI; this one tells of thoughts, of what was cached and of why an answer was
// blocked.
package gemini

// Package simulated is a provider of AI models that needs no key, no network and no
// model: what it answers follows from the request alone. It speaks chat, embeddings and
// responses of OpenAI and messages of Anthropic, in parts and at once, and is what the
// AI route uses out of the box, in tests and in demonstrations.
//
// The name of the model says what it does:
//
//	sim-echo         says the last text of the user again
//	sim-words        says as many made-up words as max_tokens allows, 40 by default
//	sim-tools        calls every tool that is offered, then says what came back
//	sim-embed        embeds: equal texts give equal vectors
//	sim-fail-STATUS  fails with that status, such as sim-fail-429
//	sim-cut          breaks off in the middle of its answer
//	sim-slow-TIME    waits that long before it answers, such as sim-slow-250ms
//	sim-hang         never answers
//
// Every model but sim-cut and the failing ones keeps to a JSON Schema in
// response_format: a member with an enum takes the value that the user's text names.
// With tool_choice required, or that of a function, every model calls tools.
//
// A text of the user may change that with a directive anywhere in it:
//
//	[[sim fail=503 latency=200ms pause=10ms cut=3 words=100 cached=50]]
package simulated

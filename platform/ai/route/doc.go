// Package route serves AI models over HTTP, in the formats that their official clients
// speak:
//
//	POST /ai/v1/chat/completions   chat of OpenAI
//	POST /ai/v1/embeddings         embeddings of OpenAI
//	POST /ai/v1/responses          responses of OpenAI, where the upstream has them
//	POST /ai/v1/messages           messages of Anthropic
//	GET  /ai/v1/models, /ai/v1/models/{model}
//
// Every call is reserved against the budgets of its caller before it is sent. Errors
// have the form that clients of the format know. An answer in parts that breaks off ends
// with an error and a broken connection: it never looks whole.
package route

// Package observe tells what calls of AI models do: spans and metrics with the names of
// OpenTelemetry's semantic conventions for generative AI.
package observe

import "github.com/countermand/countermand/platform/ai/wire"

// The names of the conventions. They are still in development, so they are in this file
// only. Metrics have the names that Prometheus gives to those of the conventions.
const (
	attrOperation    = "gen_ai.operation.name"
	attrProvider     = "gen_ai.provider.name"
	attrRequestModel = "gen_ai.request.model"
	attrInputTokens  = "gen_ai.usage.input_tokens"  //nolint:gosec // tokens of text, no credential
	attrOutputTokens = "gen_ai.usage.output_tokens" //nolint:gosec // tokens of text, no credential
	attrErrorType    = "error.type"

	// What the conventions have no name for.
	attrCallID     = "countermand.ai.call_id"
	attrCost       = "countermand.ai.cost_nanousd"
	attrAttempts   = "countermand.ai.attempts"
	attrDeployment = "countermand.ai.deployment"
	attrModel      = "countermand.ai.model" // of the configuration
	attrTenant     = "countermand.tenant"

	metricTokens    = "gen_ai_client_token_usage" //nolint:gosec // tokens of text, no credential
	metricDuration  = "gen_ai_client_operation_duration_seconds"
	metricFirstPart = "gen_ai_client_operation_time_to_first_chunk_seconds"

	metricAttempts = "countermand_ai_attempts_total"
	metricBreaker  = "countermand_ai_deployment_left_alone"
	metricOverhead = "countermand_ai_overhead_seconds"
	metricCache    = "countermand_ai_cache_lookups_total"

	labelOperation  = "gen_ai_operation_name"
	labelModel      = "gen_ai_request_model"
	labelTokenType  = "gen_ai_token_type" //nolint:gosec // tokens of text, no credential
	labelErrorType  = "error_type"
	labelDeployment = "deployment"
	labelOutcome    = "outcome"
	labelResult     = "result"
)

// operations are what the conventions call the endpoints.
var operations = map[wire.Format]string{
	wire.Chat: "chat", wire.Messages: "chat", wire.Responses: "chat", wire.Embeddings: "embeddings",
}

// providers are what the conventions call the providers of the price catalogue, where
// that differs.
var providers = map[string]string{
	"google": "gcp.gemini", "aws": "aws.bedrock", "azure": "azure.ai.openai", "mistral": "mistral_ai", "x-ai": "x_ai",
}

func providerName(prices string) string {
	if name, differs := providers[prices]; differs {
		return name
	}
	return prices
}

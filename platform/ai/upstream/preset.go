package upstream

import "sort"

// Wire is what an upstream speaks.
type Wire string

// The wires.
const (
	OpenAI    Wire = "openai"
	Anthropic Wire = "anthropic"
	Gemini    Wire = "gemini"
	// Simulated is the provider that is built in: it speaks both OpenAI and Anthropic.
	Simulated Wire = "simulated"
)

// Auth is how an upstream takes a key.
type Auth string

// The ways.
const (
	Bearer     Auth = "bearer"         // Authorization: Bearer KEY
	XAPIKey    Auth = "x-api-key"      // of Anthropic
	APIKey     Auth = "api-key"        // of Azure
	GoogleKey  Auth = "x-goog-api-key" // of Gemini
	WithoutKey Auth = "none"
)

// Preset is what is known of a provider.
type Preset struct {
	Wire    Wire
	BaseURL string // empty: it must be set
	Auth    Auth
	// KeyEnv is the environment variable that usually holds the key.
	KeyEnv string
	// Prices is what the price catalogue calls the provider; empty: as the preset.
	Prices string
	// CompletionTokens says that the bound of the output is called
	// max_completion_tokens.
	CompletionTokens bool
	// Responses says that it has the responses endpoint.
	Responses bool
}

var presets = map[string]Preset{
	"anthropic": {Wire: Anthropic, BaseURL: "https://api.anthropic.com/v1", Auth: XAPIKey, KeyEnv: "ANTHROPIC_API_KEY", Prices: "anthropic"},
	"azure":     {Wire: OpenAI, Auth: APIKey, KeyEnv: "AZURE_OPENAI_API_KEY", Prices: "azure", CompletionTokens: true, Responses: true},
	"bedrock":   {Wire: OpenAI, Auth: Bearer, KeyEnv: "AWS_BEARER_TOKEN_BEDROCK", Prices: "aws"},
	"deepseek":  {Wire: OpenAI, BaseURL: "https://api.deepseek.com/v1", Auth: Bearer, KeyEnv: "DEEPSEEK_API_KEY", Prices: "deepseek"},
	"fireworks": {Wire: OpenAI, BaseURL: "https://api.fireworks.ai/inference/v1", Auth: Bearer, KeyEnv: "FIREWORKS_API_KEY", Prices: "fireworks"},
	"gemini":    {Wire: Gemini, BaseURL: "https://generativelanguage.googleapis.com/v1beta", Auth: GoogleKey, KeyEnv: "GEMINI_API_KEY", Prices: "google"},
	"gemini-openai": {
		Wire: OpenAI, BaseURL: "https://generativelanguage.googleapis.com/v1beta/openai", Auth: Bearer, KeyEnv: "GEMINI_API_KEY", Prices: "google",
	},
	"groq":       {Wire: OpenAI, BaseURL: "https://api.groq.com/openai/v1", Auth: Bearer, KeyEnv: "GROQ_API_KEY", Prices: "groq", Responses: true},
	"llama-cpp":  {Wire: OpenAI, Auth: WithoutKey},
	"lm-studio":  {Wire: OpenAI, BaseURL: "http://127.0.0.1:1234/v1", Auth: WithoutKey},
	"mistral":    {Wire: OpenAI, BaseURL: "https://api.mistral.ai/v1", Auth: Bearer, KeyEnv: "MISTRAL_API_KEY", Prices: "mistral"},
	"ollama":     {Wire: OpenAI, BaseURL: "http://127.0.0.1:11434/v1", Auth: WithoutKey},
	"openai":     {Wire: OpenAI, BaseURL: "https://api.openai.com/v1", Auth: Bearer, KeyEnv: "OPENAI_API_KEY", Prices: "openai", CompletionTokens: true, Responses: true},
	"openrouter": {Wire: OpenAI, BaseURL: "https://openrouter.ai/api/v1", Auth: Bearer, KeyEnv: "OPENROUTER_API_KEY", Prices: "openrouter", Responses: true},
	"simulated":  {Wire: Simulated, BaseURL: "http://simulated/v1", Auth: WithoutKey, Prices: "simulated", Responses: true},
	"together":   {Wire: OpenAI, BaseURL: "https://api.together.xyz/v1", Auth: Bearer, KeyEnv: "TOGETHER_API_KEY", Prices: "together"},
	"vllm":       {Wire: OpenAI, BaseURL: "http://127.0.0.1:8000/v1", Auth: WithoutKey, Responses: true},
	"xai":        {Wire: OpenAI, BaseURL: "https://api.x.ai/v1", Auth: Bearer, KeyEnv: "XAI_API_KEY", Prices: "x-ai", Responses: true},
}

// PresetOf returns what is known of a provider by that name.
func PresetOf(name string) (Preset, bool) {
	p, known := presets[name]
	return p, known
}

// Presets returns the names of the providers that something is known of, sorted.
func Presets() []string {
	names := make([]string, 0, len(presets))
	for name := range presets {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

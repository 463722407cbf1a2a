package config_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/upstream"
)

const canary = "sk-canary-31415926"

var sources = config.Sources{
	LookupEnv: func(name string) (string, bool) {
		if strings.HasSuffix(name, "_KEY") || name == "AWS_BEARER_TOKEN_BEDROCK" {
			return canary, true
		}
		return "", false
	},
	ReadFile: func(name string) ([]byte, error) {
		if name == "/run/secrets/key" {
			return []byte(canary + "\n"), nil
		}
		return nil, errors.New("open " + name + ": no such file")
	},
}

const full = `
version: 1
providers:
  openai: {preset: openai, keys: [env:A_KEY, {ref: "file:/run/secrets/key", weight: 3}]}
  claude: {preset: anthropic}
  local: {preset: ollama, base_url: "http://ollama:11434/v1/"}
  own: {wire: openai, base_url: "https://ai.example/v1", auth: api-key, keys: [env:OWN_KEY], headers: {X-Team: a}, prices: openai, responses: true}
deployments:
  mini: {provider: openai, model: gpt-4o-mini, output_max: 100, concurrency: 8, breaker: {errors: 2, window: 10s, pause: 1s}}
  haiku: {provider: claude, model: claude-haiku, endpoints: [chat, messages]}
  any: {provider: local, model: "*", price: openai/gpt-4o}
  calm: {provider: local, model: x, breaker: {pause: 1s}}
models:
  smart:
    targets: [{deployment: mini, weight: 9}, haiku]
    fallback: [any]
    attempts: 4
    timeouts: {first_byte: 5s, idle: 10s, total: 1m}
    tenants: [a]
  "local/*": any
cache: {ttl: 5m}
redact: {kinds: [email], patterns: {order: 'ORD-\d+'}}
guards: {request: [{allow: "!text.contains('bomb')", message: no}]}
`

func TestParse(t *testing.T) {
	c, err := config.Parse("ai.yaml", []byte(full), sources)
	if err != nil {
		t.Fatal(err)
	}
	openai := c.Upstream.Providers["openai"]
	if openai.BaseURL != "https://api.openai.com/v1" || len(openai.Keys) != 2 || openai.Keys[1].Weight != 3 || openai.Keys[1].Secret != canary || !openai.CompletionTokens {
		t.Errorf("openai: %+v", openai)
	}
	if claude := c.Upstream.Providers["claude"]; claude.Wire != upstream.Anthropic || claude.Keys[0].Name != "env:ANTHROPIC_API_KEY" || claude.Auth != upstream.XAPIKey {
		t.Errorf("claude: %+v", claude)
	}
	if local := c.Upstream.Providers["local"]; local.BaseURL != "http://ollama:11434/v1" || len(local.Keys) != 0 {
		t.Errorf("local: %+v", local)
	}
	smart := c.Upstream.Models["smart"]
	if len(smart.Targets) != 2 || smart.Targets[0].Weight != 9 || smart.Targets[1].Weight != 1 || smart.Idle != 10*time.Second || smart.Attempts != 4 {
		t.Errorf("smart: %+v", smart)
	}
	if got := c.Upstream.Deployments["any"].Price; got != (ai.Model{Provider: "openai", Name: "gpt-4o"}) {
		t.Errorf("price: %+v", got)
	}
	if got, want := c.Upstream.Deployments["calm"].Breaker, (upstream.Breaker{Errors: 5, Pause: time.Second}); got != want {
		t.Errorf("a breaker of which only the pause is set: %+v", got)
	}
	if c.Cache.TTL != 5*time.Minute || len(c.Guards.Request) != 1 || c.LogContent {
		t.Errorf("%+v", c)
	}
	if shown := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(shown, canary) {
		t.Error("a secret is shown")
	}
}

func TestTheBuiltInConfigurationIsGood(t *testing.T) {
	if _, err := config.Parse("built in", config.Builtin(), config.Sources{}); err != nil {
		t.Fatal(err)
	}
}

func TestEveryPresetIsGood(t *testing.T) {
	for _, name := range upstream.Presets() {
		base := ""
		if p, _ := upstream.PresetOf(name); p.BaseURL == "" {
			base = `, base_url: "http://127.0.0.1:9"`
		}
		text := `{version: 1, providers: {p: {preset: ` + name + base + `}}, deployments: {d: {provider: p, model: m}}, models: {m: d}}`
		if _, err := config.Parse("ai.yaml", []byte(text), sources); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFaultsAreAllTold(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"empty":         {``, "the file is empty"},
		"unknown field": {`{version: 1, providers: {}, deployments: {}, models: {}, modles: {}}`, "modles"},
		"wrong version": {`{version: 2, providers: {}, deployments: {}, models: {}}`, "version"},
		"unknown preset": {
			`{version: 1, providers: {p: {preset: opnai}}, deployments: {}, models: {}}`, `providers: p: preset: "opnai" is none of anthropic`,
		},
		"no such deployment": {
			`{version: 1, providers: {p: {preset: ollama}}, deployments: {d: {provider: q, model: m}}, models: {m: {targets: [d], fallback: [e]}}}`,
			"deployments: d: provider: \"q\" is not among providers\nai.yaml: models: m: fallback: \"e\" is not among deployments",
		},
		"no key":           {`{version: 1, providers: {p: {preset: openai, keys: [env:NOT_SET]}}, deployments: {}, models: {}}`, "the environment variable NOT_SET is not set"},
		"no file":          {`{version: 1, providers: {p: {preset: openai, keys: ["file:/nowhere"]}}, deployments: {}, models: {}}`, "open /nowhere"},
		"no base":          {`{version: 1, providers: {p: {preset: azure}}, deployments: {}, models: {}}`, "base_url"},
		"user in base":     {`{version: 1, providers: {p: {preset: ollama, base_url: "http://u:` + canary + `@h/"}}, deployments: {}, models: {}}`, "base_url"},
		"a key in headers": {`{version: 1, providers: {p: {preset: ollama, headers: {Authorization: "Bearer ` + canary + `"}}}, deployments: {}, models: {}}`, "by reference"},
		"a token in one":   {`{version: 1, providers: {p: {preset: ollama, headers: {x-api-token: ` + canary + `}}}, deployments: {}, models: {}}`, "by reference"},
		"a key itself":     {`{version: 1, providers: {p: {preset: openai, keys: [` + canary + `]}}, deployments: {}, models: {}}`, "keys"},
		"a wrong guard":    {`{version: 1, providers: {}, deployments: {}, models: {}, guards: {request: [{allow: "nothing > 1"}]}}`, "guards: request: 0: allow"},
		"a wrong pattern":  {`{version: 1, providers: {}, deployments: {}, models: {}, redact: {patterns: {x: "a*"}}}`, "matches the empty text"},
	} {
		_, err := config.Parse("ai.yaml", []byte(tt.text), sources)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestRedact(t *testing.T) {
	c, err := config.Parse("ai.yaml", []byte(`{version: 1, providers: {}, deployments: {}, models: {}, redact: {kinds: [email, iban, card, phone, ipv4, ssn], patterns: {order: 'ORD-\d+'}}}`), sources)
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"write to ada@example.com now":      "write to [email] now",
		"card 4111 1111 1111 1111, ok":      "card [card], ok",
		"number 4111 1111 1111 1112 is not": "number 4111 1111 1111 1112 is not",
		"pay DE89 3704 0044 0532 0130 00":   "pay [iban]",
		"call +49 170 1234567 today":        "call [phone] today",
		"from 192.168.1.10:80":              "from [ipv4]:80",
		"ssn 123-45-6789":                   "ssn [ssn]",
		"about ORD-123":                     "about [order]",
		"version 1.2.3, 12 of 34":           "version 1.2.3, 12 of 34",
	} {
		if got := c.Redact.Apply(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

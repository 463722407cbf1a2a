package config

import (
	"regexp"
	"time"

	"github.com/countermand/countermand/platform/ai/upstream"
	"github.com/countermand/countermand/platform/gateway/expression"
)

// Cache says for how long answers are kept for the same request of the same tenant.
type Cache struct {
	TTL     time.Duration // 0: not at all
	Entries int
	Bytes   int64
}

type cacheFile struct {
	TTL     duration `yaml:"ttl"`
	Entries int      `yaml:"entries"`
	Bytes   int64    `yaml:"bytes"`
}

// Defaults of the cache.
const (
	cacheEntries = 10_000
	cacheBytes   = 64 << 20
)

func (r *reader) cache(f cacheFile) Cache {
	c := Cache{TTL: time.Duration(f.TTL), Entries: f.Entries, Bytes: f.Bytes}
	if c.Entries == 0 {
		c.Entries = cacheEntries
	}
	if c.Bytes == 0 {
		c.Bytes = cacheBytes
	}
	return c
}

// Guards look at requests before they are sent, and at answers before they are given.
type Guards struct {
	Request, Response []Guard
	// Webhook is asked about both; nil: nobody is.
	Webhook *Webhook
}

// Guard lets pass what its expression holds for.
type Guard struct {
	Allow   *expression.Program
	Message string
}

// Webhook is a service that says whether something may pass.
type Webhook struct {
	URL     string
	Timeout time.Duration
	// Token goes with it, as a bearer token; empty: none.
	Token upstream.Secret
	// FailOpen lets pass when the service cannot be asked.
	FailOpen bool
	On       []string // request, response
}

type guardFile struct {
	Allow   string `yaml:"allow"`
	Message string `yaml:"message"`
}

type guardsFile struct {
	Request  []guardFile `yaml:"request"`
	Response []guardFile `yaml:"response"`
	Webhook  *struct {
		URL      string   `yaml:"url"`
		Timeout  duration `yaml:"timeout"`
		Token    string   `yaml:"token"`
		FailOpen bool     `yaml:"fail_open"`
		On       []string `yaml:"on"`
	} `yaml:"webhook"`
}

// What guards may name. text is all that the request or the answer says.
var (
	requestScope = expression.NewScope(expression.Text("tenant"), expression.Text("client"), expression.Text("model"),
		expression.Text("endpoint"), expression.Text("text"), expression.Any("body"))
	responseScope = expression.NewScope(expression.Text("tenant"), expression.Text("client"), expression.Text("model"),
		expression.Text("endpoint"), expression.Text("text"), expression.Any("body"))
)

const webhookTimeout = 2 * time.Second

func (r *reader) guards(f guardsFile) Guards {
	compile := func(at string, scope *expression.Scope, list []guardFile) (guards []Guard) {
		for i, g := range list {
			program, err := scope.Condition(g.Allow)
			if err != nil {
				r.fail("guards: %s: %d: allow: %v", at, i, err)
				continue
			}
			guards = append(guards, Guard{program, or(g.Message, "The content is not allowed here.")})
		}
		return guards
	}
	g := Guards{Request: compile("request", requestScope, f.Request), Response: compile("response", responseScope, f.Response)}
	if w := f.Webhook; w != nil {
		g.Webhook = &Webhook{URL: w.URL, Timeout: time.Duration(w.Timeout), FailOpen: w.FailOpen, On: w.On}
		if g.Webhook.Timeout <= 0 {
			g.Webhook.Timeout = webhookTimeout
		}
		if len(w.On) == 0 {
			g.Webhook.On = []string{"request", "response"}
		}
		if w.Token != "" {
			var err error
			if g.Webhook.Token, err = r.secret(w.Token); err != nil {
				r.fail("guards: webhook: token: %v", err)
			}
		}
	}
	return g
}

// Redact says what is taken out of texts before they are sent to a provider.
type Redact struct {
	Patterns []Pattern
}

// Pattern is what is taken out, and the word that is put in its place.
type Pattern struct {
	Name    string
	Pattern *regexp.Regexp
}

type redactFile struct {
	Kinds    []string          `yaml:"kinds"`
	Patterns map[string]string `yaml:"patterns"`
}

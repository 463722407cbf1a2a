package upstream

import (
	"strings"
	"time"

	"github.com/countermand/countermand/platform/ai"
)

// Config is what a [Router] serves. It must not change once it is given to one.
type Config struct {
	Providers   map[string]Provider
	Deployments map[string]Deployment
	// Models by the name that clients use. A name that ends in * stands for every name
	// that begins like it.
	Models map[string]Model
}

// Provider is where deployments are.
type Provider struct {
	Wire    Wire
	BaseURL string
	Auth    Auth
	Keys    []Key
	// Header goes with every request.
	Header           map[string]string
	Prices           string // what the price catalogue calls it
	CompletionTokens bool
	Responses        bool
	// Connect bounds the making of a connection.
	Connect time.Duration
}

// Key is one of the keys of a provider. It hides its secret from fmt and encoders.
type Key struct {
	Name   string // tells keys apart in logs; where the secret came from, never the secret
	Weight int
	Secret Secret
}

// Secret is a text that is not shown.
type Secret string

// String hides the secret.
func (Secret) String() string { return "[redacted]" }

// GoString hides the secret.
func (Secret) GoString() string { return "[redacted]" }

// MarshalText hides the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// Deployment is a model of a provider.
type Deployment struct {
	Provider string
	// Model is what the provider calls it; * means as the client asks for it.
	Model string
	// Price names another model whose price this one has, for the price catalogue; empty
	// means its own.
	Price ai.Model
	// OutputMax is put in as the bound of the output where the client sets none; 0: only
	// where the wire insists on one.
	OutputMax int64
	// Concurrency is how many calls may run at once; 0: any number.
	Concurrency int
	// Endpoints limits what it is used for; empty: all that its wire has.
	Endpoints []string
	Breaker   Breaker
}

// Breaker says when a deployment is left alone for a while.
type Breaker struct {
	Errors int           // within Window; 0 turns it off
	Window time.Duration // default 30 s
	Pause  time.Duration // default 15 s; then one call tries it
}

// Model is what clients ask for.
type Model struct {
	Targets []Target
	// Fallback are deployments to try, in their order, when all targets have failed.
	Fallback []string
	// Attempts is how many attempts a call may have in all.
	Attempts int
	// FirstByte bounds the wait for the answer to begin, Idle that for its next part,
	// and Total the whole call with all attempts.
	FirstByte, Idle, Total time.Duration
	// Tenants may use it; empty: all.
	Tenants []string
}

// Target is a deployment with its share of the calls.
type Target struct {
	Deployment string
	Weight     int
}

// Defaults of what a configuration leaves out.
const (
	ConnectDefault   = 5 * time.Second
	FirstByteDefault = 60 * time.Second
	IdleDefault      = 60 * time.Second
	TotalDefault     = 10 * time.Minute
	BreakerErrors    = 5
	breakerWindow    = 30 * time.Second
	breakerPause     = 15 * time.Second
	// OutputDefault is what an answer is taken to have at most when neither the client nor
	// the deployment says.
	OutputDefault = 32_768
	// outputInsisted is the bound that is put in where the wire insists on one.
	outputInsisted = 4096
)

// find returns the model of that name, and the name in the configuration.
func (c *Config) find(name string) (Model, string, bool) {
	if m, ok := c.Models[name]; ok && !strings.HasSuffix(name, "*") {
		return m, name, true
	}
	best := ""
	for pattern := range c.Models {
		prefix, open := strings.CutSuffix(pattern, "*")
		if open && strings.HasPrefix(name, prefix) && len(name) > len(prefix) && len(pattern) > len(best) {
			best = pattern
		}
	}
	if best == "" {
		return Model{}, "", false
	}
	return c.Models[best], best, true
}

// upstreamName is what a deployment calls the model that a client asked for by name,
// found under that pattern.
func (d *Deployment) upstreamName(name, pattern string) string {
	if d.Model != "*" {
		return d.Model
	}
	if prefix, open := strings.CutSuffix(pattern, "/*"); open {
		return strings.TrimPrefix(name, prefix+"/")
	}
	return name
}

// priced is what the price catalogue calls the model.
func (d *Deployment) priced(p Provider, upstreamName string) ai.Model {
	m := ai.Model{Provider: p.Prices, Name: upstreamName}
	if d.Price.Provider != "" {
		m.Provider = d.Price.Provider
	}
	if d.Price.Name != "" {
		m.Name = d.Price.Name
	}
	return m
}

package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/upstream"
)

//go:embed builtin.yaml
var builtin []byte

// Builtin is the configuration that is served without one: simulated models.
func Builtin() []byte { return bytes.Clone(builtin) }

const textBytesMax = 1 << 20

// Config is a configuration that was read and checked.
type Config struct {
	Upstream upstream.Config
	Cache    Cache
	Guards   Guards
	Redact   Redact
	// LogContent says that what was asked and answered goes to the log.
	LogContent bool
}

// Sources are where secrets come from.
type Sources struct {
	// LookupEnv looks up an environment variable.
	LookupEnv func(string) (string, bool)
	// ReadFile reads a file.
	ReadFile func(string) ([]byte, error)
}

// Parse reads a configuration. name is what errors call it. It reports every fault,
// joined, each with the place of it. No error holds a secret.
func Parse(name string, text []byte, sources Sources) (*Config, error) {
	if len(text) > textBytesMax {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are allowed", name, len(text), textBytesMax)
	}
	if faults := checkSchema(text); len(faults) > 0 {
		return nil, located(name, faults)
	}
	var f file
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&f); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: want one YAML document", name)
	}
	r := &reader{sources: sources}
	c := r.read(f)
	if len(r.faults) > 0 {
		return nil, located(name, r.faults)
	}
	return c, nil
}

func located(name string, faults []string) error {
	errs := make([]error, len(faults))
	for i, fault := range faults {
		errs[i] = errors.New(name + ": " + fault)
	}
	return errors.Join(errs...)
}

// file is the form of the YAML.
type file struct {
	Version     int                   `yaml:"version"`
	Providers   map[string]provider   `yaml:"providers"`
	Deployments map[string]deployment `yaml:"deployments"`
	Models      map[string]model      `yaml:"models"`
	Cache       cacheFile             `yaml:"cache"`
	Guards      guardsFile            `yaml:"guards"`
	Redact      redactFile            `yaml:"redact"`
	LogContent  bool                  `yaml:"log_content"`
}

type provider struct {
	Preset  string            `yaml:"preset"`
	Wire    string            `yaml:"wire"`
	BaseURL string            `yaml:"base_url"`
	Auth    string            `yaml:"auth"`
	Keys    []key             `yaml:"keys"`
	Header  map[string]string `yaml:"headers"`
	Prices  string            `yaml:"prices"`
	Connect duration          `yaml:"connect"`
	// Responses and CompletionTokens tell what the upstream knows.
	Responses        *bool `yaml:"responses"`
	CompletionTokens *bool `yaml:"completion_tokens"`
}

type key struct {
	Ref    string `yaml:"ref"`
	Weight int    `yaml:"weight"`
}

// UnmarshalYAML takes a reference alone as well.
func (k *key) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		return node.Decode(&k.Ref)
	}
	type plain key
	return node.Decode((*plain)(k))
}

type deployment struct {
	Provider    string   `yaml:"provider"`
	Model       string   `yaml:"model"`
	Price       string   `yaml:"price"` // provider/model
	OutputMax   int64    `yaml:"output_max"`
	Concurrency int      `yaml:"concurrency"`
	Endpoints   []string `yaml:"endpoints"`
	Breaker     *struct {
		Errors *int     `yaml:"errors"`
		Window duration `yaml:"window"`
		Pause  duration `yaml:"pause"`
	} `yaml:"breaker"`
}

type model struct {
	Targets  []target `yaml:"targets"`
	Fallback []string `yaml:"fallback"`
	Attempts int      `yaml:"attempts"`
	Timeouts struct {
		FirstByte duration `yaml:"first_byte"`
		Idle      duration `yaml:"idle"`
		Total     duration `yaml:"total"`
	} `yaml:"timeouts"`
	Tenants []string `yaml:"tenants"`
}

// UnmarshalYAML takes the name of a deployment alone as well.
func (m *model) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		m.Targets = []target{{Deployment: node.Value, Weight: 1}}
		return nil
	}
	type plain model
	return node.Decode((*plain)(m))
}

type target struct {
	Deployment string `yaml:"deployment"`
	Weight     int    `yaml:"weight"`
}

// UnmarshalYAML takes the name of a deployment alone as well.
func (t *target) UnmarshalYAML(node *yaml.Node) error {
	t.Weight = 1
	if node.Kind == yaml.ScalarNode {
		return node.Decode(&t.Deployment)
	}
	type plain target
	return node.Decode((*plain)(t))
}

type duration time.Duration

// UnmarshalYAML reads 250ms, 30s or 2m.
func (d *duration) UnmarshalYAML(node *yaml.Node) error {
	parsed, err := time.ParseDuration(node.Value)
	if err != nil {
		return fmt.Errorf("line %d: %q is no duration, want one such as 30s", node.Line, node.Value)
	}
	*d = duration(parsed)
	return nil
}

// reader makes a configuration of a file and collects faults.
type reader struct {
	sources Sources
	faults  []string
}

func (r *reader) fail(format string, args ...any) {
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

func (r *reader) read(f file) *Config {
	c := &Config{
		Upstream: upstream.Config{
			Providers: make(map[string]upstream.Provider), Deployments: make(map[string]upstream.Deployment), Models: make(map[string]upstream.Model),
		},
		LogContent: f.LogContent,
	}
	for _, name := range slices.Sorted(maps.Keys(f.Providers)) {
		c.Upstream.Providers[name] = r.provider(name, f.Providers[name])
	}
	for _, name := range slices.Sorted(maps.Keys(f.Deployments)) {
		c.Upstream.Deployments[name] = r.deployment("deployments: "+name, f.Deployments[name], f.Providers)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Models)) {
		c.Upstream.Models[name] = r.model("models: "+name, f.Models[name], f.Deployments)
	}
	c.Cache = r.cache(f.Cache)
	c.Guards = r.guards(f.Guards)
	c.Redact = r.redact(f.Redact)
	return c
}

// secretive finds the header fields that hold secrets.
var secretive = regexp.MustCompile(`(?i)authorization|cookie|key$|token|secret|password|credential`)

func (r *reader) provider(name string, p provider) upstream.Provider {
	at := "providers: " + name
	preset := upstream.Preset{Auth: upstream.Bearer}
	if p.Preset != "" {
		var known bool
		if preset, known = upstream.PresetOf(p.Preset); !known {
			r.fail("%s: preset: %q is none of %s", at, p.Preset, strings.Join(upstream.Presets(), ", "))
			return upstream.Provider{}
		}
	}
	out := upstream.Provider{
		Wire: upstream.Wire(or(p.Wire, string(preset.Wire))), BaseURL: strings.TrimRight(or(p.BaseURL, preset.BaseURL), "/"),
		Auth: upstream.Auth(or(p.Auth, string(preset.Auth))), Header: p.Header, Prices: or(p.Prices, or(preset.Prices, or(p.Preset, name))),
		CompletionTokens: preset.CompletionTokens, Responses: preset.Responses, Connect: time.Duration(p.Connect),
	}
	if p.Responses != nil {
		out.Responses = *p.Responses
	}
	if p.CompletionTokens != nil {
		out.CompletionTokens = *p.CompletionTokens
	}
	switch {
	case out.Wire == "":
		r.fail("%s: want a preset or a wire", at)
	case out.BaseURL == "":
		r.fail("%s: base_url: this preset has none, so it must be set", at)
	default:
		if u, err := url.Parse(out.BaseURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
			r.fail("%s: base_url: want http or https, a host and at most a path, without user and password", at)
		}
	}
	for field := range out.Header {
		if secretive.MatchString(field) {
			r.fail("%s: headers: %s holds a secret, which belongs into keys by reference", at, field)
		}
	}
	if out.Auth == upstream.WithoutKey {
		if len(p.Keys) > 0 {
			r.fail("%s: keys: this provider takes none; set auth if it does", at)
		}
		return out
	}
	keys := p.Keys
	if len(keys) == 0 && preset.KeyEnv != "" {
		keys = []key{{Ref: "env:" + preset.KeyEnv}}
	}
	if len(keys) == 0 {
		r.fail("%s: keys: want at least one, such as env:NAME or file:/path, or auth: none", at)
	}
	for _, k := range keys {
		secret, err := r.secret(k.Ref)
		if err != nil {
			r.fail("%s: keys: %v", at, err)
			continue
		}
		out.Keys = append(out.Keys, upstream.Key{Name: k.Ref, Weight: max(k.Weight, 1), Secret: secret})
	}
	return out
}

// secret resolves a reference.
func (r *reader) secret(ref string) (upstream.Secret, error) {
	kind, name, _ := strings.Cut(ref, ":")
	switch {
	case kind == "env" && name != "":
		value, _ := r.sources.LookupEnv(name)
		if value == "" {
			return "", fmt.Errorf("the environment variable %s is not set", name)
		}
		return upstream.Secret(value), nil
	case kind == "file" && name != "":
		data, err := r.sources.ReadFile(name)
		if err != nil {
			return "", err
		}
		value := strings.TrimRight(string(data), "\r\n")
		if value == "" || strings.ContainsAny(value, "\r\n") {
			return "", fmt.Errorf("the file %s must hold the key on one line", name)
		}
		return upstream.Secret(value), nil
	}
	// What was written instead may be the secret itself.
	return "", errors.New("want env:NAME or file:/path; a key itself must not be in the configuration")
}

func (r *reader) deployment(at string, d deployment, providers map[string]provider) upstream.Deployment {
	if _, known := providers[d.Provider]; !known {
		r.fail("%s: provider: %q is not among providers", at, d.Provider)
	}
	out := upstream.Deployment{
		Provider: d.Provider, Model: d.Model, OutputMax: d.OutputMax, Concurrency: d.Concurrency, Endpoints: d.Endpoints,
		Breaker: upstream.Breaker{Errors: upstream.BreakerErrors},
	}
	if d.Breaker != nil {
		out.Breaker.Window, out.Breaker.Pause = time.Duration(d.Breaker.Window), time.Duration(d.Breaker.Pause)
		if d.Breaker.Errors != nil {
			out.Breaker.Errors = *d.Breaker.Errors
		}
	}
	if d.Price != "" {
		provider, name, found := strings.Cut(d.Price, "/")
		if !found {
			r.fail("%s: price: want provider/model, as the price catalogue calls it", at)
		}
		out.Price = ai.Model{Provider: provider, Name: name}
	}
	return out
}

func (r *reader) model(at string, m model, deployments map[string]deployment) upstream.Model {
	out := upstream.Model{
		Fallback: m.Fallback, Attempts: m.Attempts, Tenants: m.Tenants,
		FirstByte: time.Duration(m.Timeouts.FirstByte), Idle: time.Duration(m.Timeouts.Idle), Total: time.Duration(m.Timeouts.Total),
	}
	weight := 0
	for _, t := range m.Targets {
		if _, known := deployments[t.Deployment]; !known {
			r.fail("%s: targets: %q is not among deployments", at, t.Deployment)
		}
		weight += t.Weight
		out.Targets = append(out.Targets, upstream.Target{Deployment: t.Deployment, Weight: t.Weight})
	}
	if len(m.Targets) == 0 || weight == 0 {
		r.fail("%s: targets: want at least one with a weight", at)
	}
	for _, name := range m.Fallback {
		if _, known := deployments[name]; !known {
			r.fail("%s: fallback: %q is not among deployments", at, name)
		}
	}
	return out
}

func or(value, byDefault string) string {
	if value == "" {
		return byDefault
	}
	return value
}

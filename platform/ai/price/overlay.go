package price

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/countermand/countermand/platform/ai"
)

// Overlay is the operator's own prices, which win over the catalogue's. The first
// entry that fits a model holds. Its zero value is empty.
type Overlay struct {
	Prices []OverlayPrice `yaml:"prices"`

	name string
	sum  string
}

// OverlayPrice is the price of one model, or of several with a common prefix.
type OverlayPrice struct {
	Provider string `yaml:"provider"`
	// Model is the provider's name of the model. A star at its end stands for anything.
	Model string `yaml:"model"`
	// Free says that it costs nothing, such as a model on your own machines. No rate
	// may be set then; without it Input or Output must be.
	Free bool `yaml:"free"`
	// What a million tokens of a class cost in dollars, such as 2.50.
	Input       Dollars `yaml:"input"`
	CachedInput Dollars `yaml:"cached_input"`
	CacheWrite  Dollars `yaml:"cache_write"`
	Output      Dollars `yaml:"output"`
	Reasoning   Dollars `yaml:"reasoning"`
	// Request is what each request costs besides, in dollars.
	Request Dollars `yaml:"request"`
}

// Dollars is an amount that was stated as dollars; Set tells whether one was.
type Dollars struct {
	Amount ai.NanoUSD
	Set    bool
}

// UnmarshalYAML reads the text of the number, so that no binary fraction gets between.
func (d *Dollars) UnmarshalYAML(node *yaml.Node) error {
	amount, err := ai.ParseUSD(node.Value)
	if err != nil || node.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: %w", node.Line, err)
	}
	*d = Dollars{amount, true}
	return nil
}

// overlayBytesMax bounds the file.
const overlayBytesMax = 4 << 20

// ReadOverlay reads a file of prices. Its errors name what is wrong in it.
func ReadOverlay(file string) (Overlay, error) {
	content, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if err != nil {
		return Overlay{}, fmt.Errorf("price overlay: %w", err)
	}
	if len(content) > overlayBytesMax {
		return Overlay{}, fmt.Errorf("price overlay %s has %d bytes; at most %d are allowed", file, len(content), overlayBytesMax)
	}
	var o Overlay
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&o); err != nil {
		return Overlay{}, fmt.Errorf("price overlay %s: %w", file, err)
	}
	o.name, o.sum = file, fmt.Sprintf("%x", sha256.Sum256(content))[:12]
	if _, err := o.entries(); err != nil {
		return Overlay{}, fmt.Errorf("price overlay %s: %w", file, err)
	}
	return o, nil
}

// version names the content of the overlay.
func (o Overlay) version() string {
	if o.sum == "" {
		return "overlay"
	}
	return "overlay " + o.sum
}

// entry is an [OverlayPrice] in the form that is looked up.
type entry struct {
	OverlayPrice
	version string
	prices  []conditional
}

func (e *entry) matches(provider, name string) bool {
	if e.Provider != provider {
		return false
	}
	if prefix, open := strings.CutSuffix(e.Model, "*"); open {
		return strings.HasPrefix(name, prefix)
	}
	return name == e.Model
}

func (o Overlay) entries() ([]entry, error) {
	var errs []error
	entries := make([]entry, 0, len(o.Prices))
	for i, p := range o.Prices {
		rated := p.Input.Set || p.CachedInput.Set || p.CacheWrite.Set || p.Output.Set || p.Reasoning.Set || p.Request.Set
		switch {
		case p.Provider == "" || p.Model == "":
			errs = append(errs, fmt.Errorf("price %d: provider and model are required", i+1))
		case p.Free && rated:
			errs = append(errs, fmt.Errorf("price of %s/%s: it is free and has rates; keep one", p.Provider, p.Model))
		case !p.Free && !p.Input.Set && !p.Output.Set && !p.Request.Set:
			errs = append(errs, fmt.Errorf("price of %s/%s: state input and output for a million tokens, request, or free: true", p.Provider, p.Model))
		}
		p.Model = strings.ToLower(p.Model)
		entries = append(entries, entry{p, o.version(), []conditional{{
			Input: p.Input.scale(), Cached: p.CachedInput.scale(), Write: p.CacheWrite.scale(),
			Output: p.Output.scale(), Reasoning: p.Reasoning.scale(), Request: p.Request.Amount,
		}}})
	}
	return entries, errors.Join(errs...)
}

func (d Dollars) scale() scale {
	if !d.Set {
		return nil
	}
	return scale{{0, ai.Rate(d.Amount)}}
}

package price

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countermand/countermand/platform/ai"
)

//go:embed catalogue.json
var embedded []byte

// Simulated is the provider that is built into the gateway. It costs nobody anything;
// its models have a list price all the same, so that budgets can be tried out.
const Simulated = "simulated"

// catalogue is the form of catalogue.json.
type catalogue struct {
	Source    string     `json:"source"`
	Version   string     `json:"version"`
	Licence   string     `json:"licence"`
	Providers []provider `json:"providers"`
}

type provider struct {
	ID string `json:"id"`
	// Fallback are the providers whose models this one serves as well, by their names.
	Fallback []string `json:"fallback"`
	Models   []model  `json:"models"`

	version string
}

type model struct {
	ID     string        `json:"id"`
	Match  matcher       `json:"match"`
	Prices []conditional `json:"prices"`
}

// Book tells prices. It is safe for concurrent use.
type Book struct {
	providers map[string]*provider
	overlay   []entry
	version   string

	mu    sync.RWMutex
	found map[ai.Model]*listing // what was looked up; nil: it has no price
}

// listing is a model that was found.
type listing struct {
	name, version string
	prices        []conditional
}

// foundMax bounds the memory of names that clients make up.
const foundMax = 10_000

// parsed is the built-in catalogue, which takes a few milliseconds to read.
var parsed = sync.OnceValues(func() (map[string]*provider, error) {
	var c catalogue
	if err := json.Unmarshal(embedded, &c); err != nil {
		return nil, fmt.Errorf("price catalogue: %w", err)
	}
	version := strings.TrimPrefix(c.Source, "@pydantic/") + " " + c.Version
	providers := make(map[string]*provider, len(c.Providers))
	for i := range c.Providers {
		p := &c.Providers[i]
		p.version = version
		for j := range p.Models {
			m := &p.Models[j]
			errs := []error{m.Match.prepare()}
			for k := range m.Prices {
				errs = append(errs, m.Prices[k].prepare())
			}
			if err := errors.Join(errs...); err != nil || len(m.Prices) == 0 {
				return nil, fmt.Errorf("price catalogue: %s/%s: %d prices: %w", p.ID, m.ID, len(m.Prices), err)
			}
		}
		providers[p.ID] = p
	}
	if len(providers) == 0 {
		return nil, errors.New("price catalogue: it has no providers")
	}
	providers[Simulated] = &provider{ID: Simulated, version: "built in", Models: []model{{
		ID: "*", Match: matcher{Not: &matcher{Equals: "-"}},
		Prices: []conditional{{
			Input: scale{{0, 500_000_000}}, Cached: scale{{0, 50_000_000}}, Output: scale{{0, 1_500_000_000}},
		}},
	}}}
	return providers, nil
})

// New returns the built-in catalogue under that overlay, which may be empty.
func New(overlay Overlay) (*Book, error) {
	providers, err := parsed()
	if err != nil {
		return nil, err
	}
	entries, err := overlay.entries()
	if err != nil {
		return nil, err
	}
	b := &Book{providers: providers, overlay: entries, found: make(map[ai.Model]*listing)}
	b.version = providers["openai"].version
	if len(entries) > 0 {
		b.version += " + " + overlay.version()
	}
	return b, nil
}

// Version tells where prices come from.
func (b *Book) Version() string { return b.version }

// Lookup returns the price of a model at a time. ok is false when it has none: that
// does not mean that it is free. With an extra (see [ai.Model.With]) it has the price
// that an overlay states for it or, for a long cache, that of the catalogue: all that
// goes into the cache is taken for staying long.
func (b *Book) Lookup(m ai.Model, at time.Time) (p *Price, ok bool) {
	b.mu.RLock()
	l, known := b.found[m]
	b.mu.RUnlock()
	if !known {
		l = b.find(m)
		b.mu.Lock()
		if len(b.found) >= foundMax {
			clear(b.found)
		}
		b.found[m] = l
		b.mu.Unlock()
	}
	if l == nil {
		return nil, false
	}
	return choose(l.prices, at).price(l.name, l.version), true
}

func (b *Book) find(m ai.Model) *listing {
	name := strings.ToLower(strings.TrimSpace(m.Name))
	base, extra, _ := strings.Cut(m.Provider, "+")
	for i := range b.overlay {
		// What is free is free with all extras.
		if e := &b.overlay[i]; e.matches(m.Provider, name) || e.Free && e.matches(base, name) {
			return &listing{m.Provider + "/" + e.Model, e.version, e.prices}
		}
	}
	p := b.providers[base]
	if p == nil || name == "" {
		return nil
	}
	switch ai.Extra(extra) {
	case "":
		return b.listed(p, name)
	case ai.LongCache:
		return b.listed(p, name).longCached()
	default:
		return nil
	}
}

// longCached returns the listing with what the long cache costs; nil: nobody knows.
func (l *listing) longCached() *listing {
	if l == nil {
		return nil
	}
	long := &listing{l.name, l.version, slices.Clone(l.prices)}
	for i := range long.prices {
		c := &long.prices[i]
		if len(c.WriteLong) == 0 {
			return nil
		}
		c.Write = c.WriteLong
	}
	return long
}

// listed finds a model in the catalogue.
func (b *Book) listed(p *provider, name string) *listing {
	if l := b.findIn(p, name); l != nil {
		return l
	}
	if dashed := withDashes(name); dashed != name {
		return b.findIn(p, dashed)
	}
	return nil
}

func (b *Book) findIn(p *provider, name string) *listing {
	for i := range p.Models {
		if p.Models[i].Match.matches(name) {
			return &listing{p.ID + "/" + p.Models[i].ID, p.version, p.Models[i].Prices}
		}
	}
	for _, id := range p.Fallback {
		if other := b.providers[id]; other != nil {
			for i := range other.Models {
				if other.Models[i].Match.matches(name) {
					return &listing{other.ID + "/" + other.Models[i].ID, other.version, other.Models[i].Prices}
				}
			}
		}
	}
	return nil
}

var compactDay = regexp.MustCompile(`-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(-|:|$)`)

// withDashes writes a day within a name as the other half of the providers does.
func withDashes(name string) string { return compactDay.ReplaceAllString(name, "-$1-$2-$3$4") }

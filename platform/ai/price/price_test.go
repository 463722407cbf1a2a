package price_test

import (
	_ "embed"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/price"
)

//go:embed testdata/oracle.json
var oracle []byte

func book(t *testing.T, overlay string) *price.Book {
	t.Helper()
	var o price.Overlay
	if overlay != "" {
		file := filepath.Join(t.TempDir(), "prices.yaml")
		if err := os.WriteFile(file, []byte(overlay), 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		if o, err = price.ReadOverlay(file); err != nil {
			t.Fatal(err)
		}
	}
	b, err := price.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What the calculator of the source says of every ninth model, in floating point.
func TestCostIsThatOfTheSourcesOwnCalculator(t *testing.T) {
	t.Parallel()
	var sample []struct {
		Provider, Model, Matched string
		At                       time.Time
		Usage                    ai.Usage
		USD                      float64
	}
	if err := json.Unmarshal(oracle, &sample); err != nil {
		t.Fatal(err)
	}
	if len(sample) < 100 {
		t.Fatalf("the sample has %d entries", len(sample))
	}
	b, long := book(t, ""), 0
	for _, s := range sample {
		p, ok := b.Lookup(ai.Model{Provider: s.Provider, Name: s.Model}, s.At)
		if !ok {
			t.Errorf("%s/%s has no price", s.Provider, s.Model)
			continue
		}
		if s.Usage.CacheWrite > 0 && strings.HasSuffix(s.Provider, "+cache-1h") {
			long++
		}
		if !strings.HasSuffix(p.Model, "/"+s.Matched) {
			t.Errorf("%s/%s is taken for %s, want %s", s.Provider, s.Model, p.Model, s.Matched)
		}
		// Ours is rounded up to a billionth, theirs is off by what floats are.
		if got, want := float64(p.Cost(s.Usage)), s.USD*1e9; got < want-0.01 || got > want+1.01+want*1e-9 {
			t.Errorf("%s/%s at %s: %+v costs %.0f, the source says %.3f", s.Provider, s.Model, s.At, s.Usage, got, want)
		}
	}
	if long == 0 {
		t.Error("no cache of an hour is in the sample")
	}
}

// What an extra costs that no price is known of is not known, whatever its model costs.
func TestExtrasHaveTheirOwnPrice(t *testing.T) {
	t.Parallel()
	b := book(t, `
prices:
  - {provider: openai+audio, model: gpt-4o, input: 40, output: 80}
  - {provider: ollama, model: "*", free: true}
`)
	cost := func(provider, model string, extra ai.Extra) ai.NanoUSD {
		p, ok := b.Lookup(ai.Model{Provider: provider, Name: model}.With(extra), time.Now())
		if !ok {
			return -1
		}
		return p.Cost(ai.Usage{Input: 1_000_000, CacheWrite: 1_000_000, Output: 1_000_000})
	}
	for _, test := range []struct {
		provider, model string
		extra           ai.Extra
		want            ai.NanoUSD
	}{
		{"anthropic", "claude-haiku-4-5", "", 7_250_000_000},
		{"anthropic", "claude-haiku-4-5", ai.LongCache, 8 * ai.USD},
		{"anthropic", "claude-haiku-4-5", ai.Audio, -1},
		{"anthropic", "claude-haiku-4-5", ai.HostedTools, -1},
		{"openai", "gpt-4o-mini", ai.LongCache, -1}, // it has no such cache
		{"openai", "gpt-4o", ai.Audio, 160 * ai.USD},
		{"openai", "gpt-4o-mini", ai.Audio, -1},
		{"ollama", "llama3", ai.Audio, 0},
	} {
		if got := cost(test.provider, test.model, test.extra); got != test.want {
			t.Errorf("%s/%s with %q costs %d, want %d", test.provider, test.model, test.extra, got, test.want)
		}
	}
}

func TestMostIsNeverLessThanCost(t *testing.T) {
	t.Parallel()
	var sample []struct{ Provider, Model string }
	if err := json.Unmarshal(oracle, &sample); err != nil {
		t.Fatal(err)
	}
	b := book(t, "")
	random := rand.New(rand.NewPCG(3, 4))
	for _, s := range sample {
		p, _ := b.Lookup(ai.Model{Provider: s.Provider, Name: s.Model}, time.Now())
		for range 50 {
			most := ai.Usage{Input: random.Int64N(400_000), Output: random.Int64N(100_000)}
			used := ai.Usage{Output: random.Int64N(most.Output + 1)}
			used.Reasoning = random.Int64N(most.Output - used.Output + 1)
			used.Input = random.Int64N(most.Input + 1)
			used.CachedInput = random.Int64N(most.Input - used.Input + 1)
			used.CacheWrite = random.Int64N(most.Input - used.Input - used.CachedInput + 1)
			if cost, bound := p.Cost(used), p.Most(most); cost > bound {
				t.Fatalf("%s/%s: %+v costs %d, more than the %d of %+v", s.Provider, s.Model, used, cost, bound, most)
			}
		}
	}
}

// The source's calculator says 0.6814975 and 1.36225 dollars.
func TestTiersBeginAfterTheirStart(t *testing.T) {
	t.Parallel()
	p, ok := book(t, "").Lookup(ai.Model{Provider: "openai", Name: "gpt-5.4"}, time.Now())
	if !ok {
		t.Fatal("openai/gpt-5.4 has no price")
	}
	for input, want := range map[int64]ai.NanoUSD{271_999: 681_497_500, 272_000: 1_362_250_000} {
		if got := p.Cost(ai.Usage{Input: input, Output: 100}); got != want {
			t.Errorf("%d tokens of input cost %d, want %d", input, got, want)
		}
	}
}

func TestUnknownIsNotFree(t *testing.T) {
	t.Parallel()
	b := book(t, "")
	for _, m := range []ai.Model{{Provider: "openai", Name: "no-such-model"}, {Provider: "openai"}, {Provider: "mine", Name: "gpt-4o"}, {}} {
		if p, ok := b.Lookup(m, time.Now()); ok {
			t.Errorf("%s has the price of %s", m, p.Model)
		}
	}
	if p, ok := b.Lookup(ai.Model{Provider: "simulated", Name: "anything"}, time.Now()); !ok || p.Cost(ai.Usage{Input: 1_000_000}) != ai.USD/2 {
		t.Error("the simulated provider has no list price")
	}
	if !strings.HasPrefix(b.Version(), "genai-prices 0.") {
		t.Errorf("the version is %q", b.Version())
	}
}

// An Azure deployment has OpenAI's models under their names.
func TestFallbackProviders(t *testing.T) {
	t.Parallel()
	p, ok := book(t, "").Lookup(ai.Model{Provider: "azure", Name: "gpt-4o-mini"}, time.Now())
	if !ok || p.Model == "" {
		t.Fatal("azure/gpt-4o-mini has no price")
	}
}

func TestOverlayWins(t *testing.T) {
	t.Parallel()
	b := book(t, `
prices:
  - {provider: openai, model: gpt-4o, input: 1, output: 0.000000001, request: 0.5}
  - {provider: ollama, model: "llama*", free: true}
`)
	p, ok := b.Lookup(ai.Model{Provider: "openai", Name: "GPT-4o"}, time.Now())
	if !ok || p.Cost(ai.Usage{Input: 2_000_000, CachedInput: 1_000_000, Output: 1_000_000}) != 3*ai.USD+1+ai.USD/2 {
		t.Errorf("the price is %+v", p)
	}
	if !strings.Contains(p.Version, "overlay ") || !strings.Contains(b.Version(), p.Version) {
		t.Errorf("versions are %q and %q", p.Version, b.Version())
	}
	if p, ok := b.Lookup(ai.Model{Provider: "ollama", Name: "llama3:8b"}, time.Now()); !ok || p.Cost(ai.Usage{Input: math.MaxInt64}) != 0 {
		t.Error("what is free has a cost")
	}
	if _, ok := b.Lookup(ai.Model{Provider: "ollama", Name: "other"}, time.Now()); ok {
		t.Error("a prefix fits something else")
	}
	if p, _ := b.Lookup(ai.Model{Provider: "openai", Name: "gpt-4o-mini"}, time.Now()); p == nil || strings.Contains(p.Version, "overlay") {
		t.Error("an exact name fits a longer one")
	}
}

func TestOverlayTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"prices: [{provider: a, model: b}]":                       "state input and output",
		"prices: [{provider: a, model: b, free: true, input: 1}]": "it is free and has rates",
		"prices: [{model: b, free: true}]":                        "provider and model are required",
		"prices: [{provider: a, model: b, input: -1}]":            "want an amount of dollars",
		"prices: [{provider: a, model: b, input: 1e3}]":           "want an amount of dollars",
		"prices: [{provider: a, model: b, imput: 1}]":             "imput",
	} {
		file := filepath.Join(t.TempDir(), "prices.yaml")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := price.ReadOverlay(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", content, err, want)
		}
	}
	if _, err := price.ReadOverlay(filepath.Join(t.TempDir(), "none.yaml")); err == nil {
		t.Error("a file that is not there is no error")
	}
}

func BenchmarkLookupAndCost(b *testing.B) {
	prices, err := price.New(price.Overlay{})
	if err != nil {
		b.Fatal(err)
	}
	now, model, usage := time.Now(), ai.Model{Provider: "openai", Name: "gpt-4o-mini"}, ai.Usage{Input: 1000, Output: 200}
	for b.Loop() {
		p, _ := prices.Lookup(model, now)
		_ = p.Cost(usage)
	}
}

package price

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/countermand/countermand/platform/ai"
)

// Price is what a model costs at some time. It is read only.
type Price struct {
	// Model is the catalogue's name of what was found, as provider/model.
	Model string
	// Version is that of where the price comes from, such as genai-prices 0.1.8.
	Version string

	input, cached, write, output, reasoning scale
	// request is what a request costs besides its tokens.
	request ai.NanoUSD
}

// Cost returns what one attempt with that usage costs. A class without a price of its
// own costs what its kind does: cached input what input does, reasoning what output
// does. Rates that rise with the size of the input hold for all of it.
func (p *Price) Cost(u ai.Usage) ai.NanoUSD {
	size := u.InputTotal()
	var bill ai.Bill
	bill.Add(u.Input, p.input.at(size))
	bill.Add(u.CachedInput, p.cached.or(p.input).at(size))
	bill.Add(u.CacheWrite, p.write.or(p.input).at(size))
	bill.Add(u.Output, p.output.at(size))
	bill.Add(u.Reasoning, p.reasoning.or(p.output).at(size))
	return bill.Total().Plus(p.request)
}

// Most returns what an attempt costs at most that uses no more than u: all of the
// input at the dearest class, since nobody knows before what will come from a cache.
func (p *Price) Most(u ai.Usage) ai.NanoUSD {
	size := u.InputTotal()
	var bill ai.Bill
	bill.Add(size, max(p.input.dearest(size), p.cached.dearest(size), p.write.dearest(size)))
	bill.Add(u.OutputTotal(), max(p.output.dearest(size), p.reasoning.dearest(size)))
	return bill.Total().Plus(p.request)
}

// scale is a rate that may depend on how large the input is.
type scale []tier

// tier is the rate of inputs with more tokens than that.
type tier struct {
	over int64
	rate ai.Rate
}

// at returns the rate for an input of that size.
func (s scale) at(size int64) ai.Rate {
	for _, t := range slices.Backward(s) {
		if size > t.over || t.over == 0 {
			return t.rate
		}
	}
	return 0
}

// dearest returns the highest rate for an input up to that size.
func (s scale) dearest(size int64) (most ai.Rate) {
	for _, t := range s {
		if size > t.over || t.over == 0 {
			most = max(most, t.rate)
		}
	}
	return most
}

func (s scale) or(other scale) scale {
	if len(s) == 0 {
		return other
	}
	return s
}

// UnmarshalJSON reads [[over, rate], …] in ascending order.
func (s *scale) UnmarshalJSON(data []byte) error {
	var pairs [][2]int64
	if err := json.Unmarshal(data, &pairs); err != nil {
		return err
	}
	for i, pair := range pairs {
		if pair[1] < 0 || i == 0 && pair[0] != 0 || i > 0 && pair[0] <= pairs[i-1][0] {
			return fmt.Errorf("tiers %s: want them in ascending order from 0, and no price below 0", data)
		}
		*s = append(*s, tier{pair[0], ai.Rate(pair[1])})
	}
	return nil
}

// conditional is a price that holds from a day on or at some time of day.
type conditional struct {
	From  string `json:"from"`  // a day
	Start string `json:"start"` // a time of day with its zone
	End   string `json:"end"`

	Input     scale      `json:"input"`
	Cached    scale      `json:"cached_input"`
	Write     scale      `json:"cache_write"`
	WriteLong scale      `json:"cache_write_1h"`
	Output    scale      `json:"output"`
	Reasoning scale      `json:"reasoning"`
	Request   ai.NanoUSD `json:"request"`

	from       time.Time
	start, end time.Duration // since midnight UTC
}

// prepare reads the conditions.
func (c *conditional) prepare() (err error) {
	if c.From != "" {
		if c.from, err = time.Parse(time.DateOnly, c.From); err != nil {
			return fmt.Errorf("from %q: want a day such as 2026-01-31", c.From)
		}
	}
	if c.Start != "" {
		if c.start, err = timeOfDay(c.Start); err != nil {
			return err
		}
		if c.end, err = timeOfDay(c.End); err != nil {
			return err
		}
	}
	return nil
}

func timeOfDay(text string) (time.Duration, error) {
	at, err := time.Parse("15:04:05Z07:00", text)
	if err != nil {
		return 0, fmt.Errorf("time of day %q: want one such as 16:30:00Z", text)
	}
	at = at.UTC()
	return sinceMidnight(at), nil
}

func sinceMidnight(at time.Time) time.Duration {
	return time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute + time.Duration(at.Second())*time.Second + time.Duration(at.Nanosecond())
}

// holds reports whether the price is the one at that time.
func (c *conditional) holds(at time.Time) bool {
	switch {
	case c.Start != "":
		now := sinceMidnight(at)
		if c.end < c.start { // across midnight
			return now >= c.start || now < c.end
		}
		return now >= c.start && now < c.end
	case c.From != "":
		return !at.Before(c.from)
	}
	return true
}

// choose returns the last price that holds, or else the first.
func choose(prices []conditional, at time.Time) *conditional {
	at = at.UTC()
	for i := range slices.Backward(prices) {
		if prices[i].holds(at) {
			return &prices[i]
		}
	}
	return &prices[0]
}

func (c *conditional) price(model, version string) *Price {
	return &Price{
		Model: model, Version: version, request: c.Request,
		input: c.Input, cached: c.Cached, write: c.Write, output: c.Output, reasoning: c.Reasoning,
	}
}

// Rates are what a million tokens of each class cost, for an input that is small.
type Rates struct {
	Input       ai.Rate    `json:"input"`
	CachedInput ai.Rate    `json:"cached_input"`
	CacheWrite  ai.Rate    `json:"cache_write"`
	Output      ai.Rate    `json:"output"`
	Reasoning   ai.Rate    `json:"reasoning"`
	Request     ai.NanoUSD `json:"request"`
	// Tiered says that an input beyond some size is dearer.
	Tiered bool `json:"tiered"`
}

// Rates returns what p states.
func (p *Price) Rates() Rates {
	return Rates{
		Input: p.input.at(0), CachedInput: p.cached.or(p.input).at(0), CacheWrite: p.write.or(p.input).at(0),
		Output: p.output.at(0), Reasoning: p.reasoning.or(p.output).at(0), Request: p.request,
		Tiered: len(p.input) > 1 || len(p.output) > 1,
	}
}

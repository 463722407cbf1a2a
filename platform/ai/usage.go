package ai

import "math"

// Usage is what one attempt has used, in classes of tokens that each have a price.
// The classes are disjoint: a token counts in one of them. Providers that report
// totals, such as input with what was cached within it, are taken apart by whoever
// reads their answer.
type Usage struct {
	// Input is what was read and came from no cache and went into none.
	Input int64 `json:"input"`
	// CachedInput is what was read from the provider's cache.
	CachedInput int64 `json:"cached_input,omitempty"`
	// CacheWrite is what was read and put into the provider's cache.
	CacheWrite int64 `json:"cache_write,omitempty"`
	// Output is what was written for the client, without reasoning.
	Output int64 `json:"output"`
	// Reasoning is what was written for the model itself.
	Reasoning int64 `json:"reasoning,omitempty"`
}

// InputTotal returns all that was read.
func (u Usage) InputTotal() int64 { return sum(u.Input, u.CachedInput, u.CacheWrite) }

// OutputTotal returns all that was written.
func (u Usage) OutputTotal() int64 { return sum(u.Output, u.Reasoning) }

// Total returns all tokens.
func (u Usage) Total() int64 { return sum(u.InputTotal(), u.OutputTotal()) }

// Plus returns the sum of both, class by class.
func (u Usage) Plus(v Usage) Usage {
	return Usage{
		Input: sum(u.Input, v.Input), CachedInput: sum(u.CachedInput, v.CachedInput), CacheWrite: sum(u.CacheWrite, v.CacheWrite),
		Output: sum(u.Output, v.Output), Reasoning: sum(u.Reasoning, v.Reasoning),
	}
}

// Sane returns u with its negative counts taken for none, as a provider's answer may
// hold anything.
func (u Usage) Sane() Usage { return u.Plus(Usage{}) }

// sum adds what is not negative and stops at the greatest number.
func sum(numbers ...int64) (total int64) {
	for _, n := range numbers {
		total += max(n, 0)
		if total < 0 {
			return math.MaxInt64
		}
	}
	return total
}

// Source says where a [Usage] comes from.
type Source string

// The sources.
const (
	Reported  Source = "reported"  // by the provider
	Estimated Source = "estimated" // by us, since the provider has not said
)

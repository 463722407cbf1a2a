package ai

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// NanoUSD is an amount of money in billionths of a US dollar. Amounts are integers,
// so that sums do not depend on their order. The greatest is about 9.2 billion dollars.
type NanoUSD int64

// USD is one dollar.
const USD NanoUSD = 1_000_000_000

// Plus returns the sum. It stops at the greatest and the least amount instead of
// overflowing: a sum that is too large stays larger than any limit.
func (n NanoUSD) Plus(m NanoUSD) NanoUSD {
	sum := n + m
	switch {
	case m > 0 && sum < n:
		return math.MaxInt64
	case m < 0 && sum > n:
		return math.MinInt64
	}
	return sum
}

// Rate is what one million units cost, in billionths of a dollar: the rate of a model
// at $2.50 for a million tokens is 2_500_000_000. Prices go below a billionth for one
// token, so they are kept for a million.
type Rate int64

// PerMillion is how many units a [Rate] is for.
const PerMillion = 1_000_000

// Bill adds up what several classes of tokens cost, without rounding between them. The
// zero value is an empty bill.
type Bill struct{ hi, lo uint64 } // millionths of a billionth of a dollar

// Add adds so many units at that rate. Negative ones add nothing.
func (b *Bill) Add(units int64, rate Rate) {
	if units <= 0 || rate <= 0 {
		return
	}
	hi, lo := bits.Mul64(uint64(units), uint64(rate))
	var carry uint64
	b.lo, carry = bits.Add64(b.lo, lo, 0)
	b.hi, carry = bits.Add64(b.hi, hi, carry)
	if carry != 0 {
		b.hi, b.lo = math.MaxUint64, math.MaxUint64
	}
}

// Total returns the sum, rounded up to a whole billionth of a dollar, so that no use
// is free by being small. What is beyond the greatest amount is that amount.
func (b *Bill) Total() NanoUSD {
	if b.hi >= PerMillion {
		return math.MaxInt64
	}
	quotient, rest := bits.Div64(b.hi, b.lo, PerMillion)
	switch {
	case quotient >= math.MaxInt64:
		return math.MaxInt64
	case rest > 0:
		quotient++
	}
	return NanoUSD(quotient)
}

// String returns the amount in dollars without trailing zeros, such as 0.0000125.
func (n NanoUSD) String() string {
	if n == math.MinInt64 {
		return "-9223372036.854775808"
	}
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	whole, fraction := strconv.FormatInt(int64(n/USD), 10), strconv.FormatInt(int64(USD+n%USD), 10)[1:]
	if fraction = strings.TrimRight(fraction, "0"); fraction == "" {
		return sign + whole
	}
	return sign + whole + "." + fraction
}

var errUSD = errors.New("want an amount of dollars such as 25 or 0.05, with at most nine decimals")

// ParseUSD reads an amount of dollars, such as 12.5. It takes no sign and no exponent,
// and refuses what has more than nine decimals rather than rounding it.
func ParseUSD(text string) (NanoUSD, error) {
	whole, fraction, dotted := strings.Cut(text, ".")
	if !digits(whole) || dotted && (!digits(fraction) || len(fraction) > 9) {
		return 0, fmt.Errorf("%q: %w", text, errUSD)
	}
	n, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", 9-len(fraction)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q: %w", text, errUSD)
	}
	return NanoUSD(n), nil
}

func digits(text string) bool {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return text != ""
}

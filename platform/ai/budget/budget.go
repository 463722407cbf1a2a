package budget

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/countermand/countermand/platform/ai"
)

// Budget says how much somebody may use in each period. It holds for calls whose
// caller has the tenant, app and key that it names; what it leaves empty stands for
// any. A call must fit into all budgets that hold for it.
type Budget struct {
	// ID names the budget: lower-case letters, digits, dots, dashes and underscores,
	// at most 100.
	ID     string `json:"id"`
	Tenant string `json:"tenant,omitempty"` // empty: everybody; App and Key must be too
	App    string `json:"app,omitempty"`
	// Key is the id of a key. Its app may be left out.
	Key string `json:"key,omitempty"`
	// Unit and Period stay as they are for as long as there is a budget of this ID.
	Unit   Unit   `json:"unit"`
	Period Period `json:"period"`
	// Limit is in billionths of a dollar, tokens or requests, as Unit says.
	Limit int64 `json:"limit"`
	// OnUncertain says what becomes of money that was held for an attempt of which
	// nobody knows what it has cost; [Hold] when empty. Of several budgets the most
	// careful one decides: Hold before Charge before Drop.
	OnUncertain OnUncertain `json:"on_uncertain,omitempty"`
	// WarnAt are percentages of the limit; an event tells when one is reached. 80 when
	// nil, none when empty.
	WarnAt []int16 `json:"warn_at,omitempty"`
}

// Unit of a [Budget].
type Unit string

// The units. Limits of tokens and requests by the minute are what others call rate
// limits.
const (
	USD      Unit = "usd"
	Tokens   Unit = "tokens"
	Requests Unit = "requests"
)

// Period of a [Budget]. All begin in UTC.
type Period string

// The periods.
const (
	Minute Period = "minute"
	Hour   Period = "hour"
	Day    Period = "day"
	Month  Period = "month"
)

// OnUncertain is a policy of a [Budget].
type OnUncertain string

// The policies.
const (
	// Hold keeps it held until somebody finds out and says so, at most until the
	// period ends.
	Hold OnUncertain = "hold"
	// Charge takes the most that the attempt may have cost.
	Charge OnUncertain = "charge"
	// Drop lets it go: the budget may be exceeded by what the provider bills then.
	Drop OnUncertain = "release"
)

// ErrInvalid is wrapped by the error about a budget that breaks a rule.
var ErrInvalid = errors.New("invalid budget")

var idPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,99}$`)

const nameBytesMax = 200

// withDefaults fills in what was left out.
func (b Budget) withDefaults() Budget {
	if b.OnUncertain == "" {
		b.OnUncertain = Hold
	}
	if b.WarnAt == nil {
		b.WarnAt = []int16{80}
	}
	b.WarnAt = slices.Clone(b.WarnAt)
	slices.Sort(b.WarnAt)
	return b
}

// Validate reports everything that is wrong with b, joined and wrapping [ErrInvalid].
func (b Budget) Validate() error {
	b = b.withDefaults()
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !idPattern.MatchString(b.ID) {
		fail("id %q: want lower-case letters, digits, dots, dashes and underscores, at most 100", b.ID)
	}
	if b.Tenant == "" && (b.App != "" || b.Key != "") {
		fail("tenant: an app or a key belongs to one")
	}
	for _, name := range []string{b.Tenant, b.App, b.Key} {
		if len(name) > nameBytesMax {
			fail("tenant, app and key have at most %d bytes", nameBytesMax)
		}
	}
	if !slices.Contains([]Unit{USD, Tokens, Requests}, b.Unit) {
		fail("unit %q: want usd, tokens or requests", b.Unit)
	}
	if !slices.Contains([]Period{Minute, Hour, Day, Month}, b.Period) {
		fail("period %q: want minute, hour, day or month", b.Period)
	}
	if b.Limit < 0 {
		fail("limit is %d; want 0 or more", b.Limit)
	}
	if !slices.Contains([]OnUncertain{Hold, Charge, Drop}, b.OnUncertain) {
		fail("on_uncertain %q: want hold, charge or release", b.OnUncertain)
	}
	for _, percent := range b.WarnAt {
		if percent < 1 || percent > 100 || len(b.WarnAt) > 10 {
			fail("warn_at: want up to ten percentages from 1 to 100")
			break
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w: %w", ErrInvalid, errors.Join(errs...))
	}
	return nil
}

// amount writes so many units for people.
func (u Unit) amount(n int64) string {
	if u == USD {
		return "$" + ai.NanoUSD(n).String()
	}
	return fmt.Sprintf("%d %s", n, u)
}

// Refusal is why a call was not let through. It is the error of [Keeper.Reserve] and
// [Reservation.Dispatch].
type Refusal struct { //nolint:errname // it is an answer, as a rejection is
	Code Code
	// Detail tells a person what is wrong and what to do. It holds nothing secret.
	Detail string
	// Budget is the one that lacks, where it is a budget; with what is left of it.
	Budget   string
	Unit     Unit
	Limit    int64
	Left     int64
	ResetsAt time.Time
	// RetryAfter is when it may make sense to ask again; 0: nobody knows.
	RetryAfter time.Duration

	cause error
}

// Code of a [Refusal]; clients see it.
type Code string

// The codes.
const (
	BudgetExhausted Code = "budget_exhausted"  // money
	RateLimited     Code = "rate_limited"      // tokens or requests
	PriceUnknown    Code = "price_unknown"     // nobody knows what it would cost
	CallCap         Code = "call_cap"          // the call itself may not cost more
	Unavailable     Code = "books_unavailable" // budgets cannot be looked at
)

// Error implements error.
func (r *Refusal) Error() string { return string(r.Code) + ": " + r.Detail }

// Unwrap returns what has made budgets unavailable, if anything.
func (r *Refusal) Unwrap() error { return r.cause }

// HTTPStatus returns the status that tells a client.
func (r *Refusal) HTTPStatus() int {
	switch r.Code {
	case PriceUnknown:
		return 422
	case Unavailable:
		return 503
	default:
		return 429
	}
}

func unavailable(cause error) *Refusal {
	return &Refusal{
		Code: Unavailable, RetryAfter: time.Second, cause: cause,
		Detail: "the books cannot be reached, and no call is made that they might not hold; try again soon",
	}
}

// exhausted is the refusal of a budget.
func exhausted(b *Budget, need, left int64, resets time.Time, wait time.Duration) *Refusal {
	r := &Refusal{
		Code: BudgetExhausted, Budget: b.ID, Unit: b.Unit, Limit: b.Limit, Left: left, ResetsAt: resets, RetryAfter: wait,
	}
	if b.Unit != USD {
		r.Code = RateLimited
	}
	r.Detail = fmt.Sprintf("budget %s allows %s in a %s; %s is left and the call may use %s; it begins anew at %s",
		b.ID, b.Unit.amount(b.Limit), b.Period, b.Unit.amount(max(left, 0)), b.Unit.amount(need), resets.UTC().Format(time.RFC3339))
	return r
}

// unpriced is the refusal of models that have no price.
func unpriced(budget string, models []string) *Refusal {
	return &Refusal{
		Code: PriceUnknown, Budget: budget,
		Detail: fmt.Sprintf("%s has no price, so it cannot be counted against budget %s; state its price in the price overlay, or that it is free",
			strings.Join(models, ", "), budget),
	}
}

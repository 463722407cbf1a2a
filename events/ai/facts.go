package ai

import (
	"time"

	"github.com/countermand/countermand/events"
)

// Facts about single attempts.
var (
	// UsageRecorded tells what an attempt has used and cost. There is one for every
	// settled attempt, and its id is always the same.
	UsageRecorded = events.NewFact[AttemptEnded]("ai.usage.recorded.v1")
	// CallReleased tells of an attempt that never left or was refused, and cost nothing.
	CallReleased = events.NewFact[AttemptEnded]("ai.call.released.v1")
	// CallUncertain tells of an attempt of which nobody knows what it has cost.
	CallUncertain = events.NewFact[AttemptEnded]("ai.call.uncertain.v1")
)

// AttemptEnded is how an attempt of a call has ended.
type AttemptEnded struct {
	CallID    string `json:"call_id"`
	Attempt   int    `json:"attempt"`
	Caller    Caller `json:"caller"`
	Operation string `json:"operation"`
	Requested string `json:"requested_model" jsonschema_description:"What the client asked for."`
	Provider  string `json:"provider"`
	Model     string `json:"model"`
	Usage     Usage  `json:"usage"`
	Source    string `json:"usage_source,omitempty" jsonschema_description:"reported by the provider or estimated"`
	// CostNano is missing where the model has no price.
	CostNano     *int64 `json:"cost_nano_usd,omitempty"`
	HeldNano     int64  `json:"held_nano_usd,omitempty" jsonschema_description:"What an uncertain attempt may have cost."`
	Price        string `json:"price,omitempty"`
	PriceVersion string `json:"price_version,omitempty"`
	Reason       string `json:"reason,omitempty"`
	Saga         string `json:"saga,omitempty"`
}

// Usage is in classes of tokens of which each token is in one.
type Usage struct {
	Input       int64 `json:"input"`
	CachedInput int64 `json:"cached_input,omitempty"`
	CacheWrite  int64 `json:"cache_write,omitempty"`
	Output      int64 `json:"output"`
	Reasoning   int64 `json:"reasoning,omitempty"`
}

// Facts about budgets.
var (
	// ThresholdReached tells that a percentage of a budget was spent, once in a period.
	ThresholdReached = events.NewFact[BudgetState]("ai.budget.threshold.v1")
	// Exhausted tells that a call was refused because of a budget, the first of a period
	// and of each limit that is stated in it.
	Exhausted = events.NewFact[BudgetState]("ai.budget.exhausted.v1")
	// Reserved tells that a saga has put money by, and Released that it gave it back.
	Reserved = events.NewFact[BudgetHold]("ai.budget.reserved.v1")
	Released = events.NewFact[BudgetHold]("ai.budget.released.v1")
)

// BudgetState is how a budget stands in a period. Amounts are in billionths of a
// dollar, tokens or requests, as Unit says.
type BudgetState struct {
	Budget   string    `json:"budget"`
	Tenant   string    `json:"tenant,omitempty"`
	App      string    `json:"app,omitempty"`
	Key      string    `json:"key,omitempty"`
	Unit     string    `json:"unit"`
	Period   string    `json:"period"`
	StartsAt time.Time `json:"starts_at"`
	EndsAt   time.Time `json:"ends_at"`
	Limit    int64     `json:"limit"`
	Spent    int64     `json:"spent"`
	Reserved int64     `json:"reserved"`
	Percent  int       `json:"percent,omitempty" jsonschema_description:"The percentage that was reached."`
}

// BudgetHold is what a saga has put by.
type BudgetHold struct {
	Reservation string `json:"reservation"`
	Caller      Caller `json:"caller"`
	NanoUSD     int64  `json:"nano_usd"`
}

// Facts about prompts.
var (
	// PromptPublished tells that a version of a prompt can be called. It never changes.
	PromptPublished = events.NewFact[PromptVersion]("ai.prompt.published.v1")
	// PromptChannelMoved tells that a name such as stable stands for another version.
	PromptChannelMoved = events.NewFact[PromptVersion]("ai.prompt.moved.v1")
)

// PromptVersion names a version of a prompt.
type PromptVersion struct {
	Tenant  string `json:"tenant,omitempty"`
	Slug    string `json:"slug"`
	Version int    `json:"version"`
	Channel string `json:"channel,omitempty"`
	Digest  string `json:"digest" jsonschema_description:"SHA-256 of the version."`
}

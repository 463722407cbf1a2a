package ai

import (
	"encoding/json"

	"github.com/countermand/countermand/events"
)

// Complete has a model called as a step of a saga. The call is made at most once that
// we know of: where it is uncertain whether it was, the command is rejected with
// [Uncertain] and what it may have cost stays held.
var Complete = events.NewCommand[CompleteRequest, Completion]("ai.call.complete.v1",
	BudgetExhausted, RateLimited, PriceUnknown, CallRefused, CallUnavailable, Uncertain, OutputInvalid)

// RequestCompletion begins the saga of a call whose client does not wait for it. Only
// gateways send it, for it says who pays.
var RequestCompletion = events.NewCommand[CompleteRequest, Completion]("ai.completion.request.v1",
	BudgetExhausted, RateLimited, PriceUnknown, CallRefused, CallUnavailable, Uncertain, OutputInvalid)

// CompleteRequest says what to ask which model for whom. Either Model and Body or
// Prompt and Variables are set.
type CompleteRequest struct {
	Caller Caller `json:"caller" jsonschema_description:"Who pays."`
	// Operation is chat by default.
	Operation string          `json:"operation,omitempty" jsonschema:"enum=chat,enum=embeddings,enum=messages,enum=responses" jsonschema_description:"The endpoint whose body it is; chat by default."`
	Model     string          `json:"model,omitempty" jsonschema:"maxLength=200" jsonschema_description:"The route or model, instead of a prompt."`
	Body      json.RawMessage `json:"body,omitempty" jsonschema_description:"The body as a client would post it, without stream."`
	// AnthropicBeta is the header field of that name, with the operation messages.
	AnthropicBeta []string        `json:"anthropic_beta,omitempty" jsonschema:"maxItems=16" jsonschema_description:"What of Anthropic's betas the body is written for, with the operation messages."`
	Prompt        string          `json:"prompt,omitempty" jsonschema:"maxLength=200" jsonschema_description:"A published prompt, such as triage:stable."`
	Variables     json.RawMessage `json:"variables,omitempty" jsonschema_description:"What the prompt is filled with."`
	// Reservation is one of [ReserveBudget] that pays; the caller's budgets when empty.
	Reservation string `json:"reservation,omitempty" jsonschema:"maxLength=64" jsonschema_description:"The id of a reservation that pays for it."`
	// CapNanoUSD is what the call may cost with all its attempts; 0: what budgets allow.
	CapNanoUSD int64 `json:"cap_nano_usd,omitempty" jsonschema:"minimum=0" jsonschema_description:"The most that it may cost."`
}

// Caller is who pays for a call.
type Caller struct {
	Tenant string `json:"tenant" jsonschema:"minLength=1,maxLength=200"`
	App    string `json:"app,omitempty" jsonschema:"maxLength=200"`
	Key    string `json:"key,omitempty" jsonschema:"maxLength=200" jsonschema_description:"The id of a key, never the key."`
}

// Completion is what came of a call.
type Completion struct {
	CallID   string          `json:"call_id"`
	Provider string          `json:"provider"`
	Model    string          `json:"model"`
	Body     json.RawMessage `json:"body,omitempty" jsonschema_description:"The provider's answer, in the format of the operation."`
	Output   json.RawMessage `json:"output,omitempty" jsonschema_description:"What a prompt has made, as its output schema says."`
	Attempts int             `json:"attempts"`
	Usage    Usage           `json:"usage"`
	CostNano int64           `json:"cost_nano_usd"`
}

// Codes of calls that gave no result.
const (
	BudgetExhausted events.Code = "budget_exhausted"
	RateLimited     events.Code = "rate_limited"
	PriceUnknown    events.Code = "price_unknown"
	// CallRefused says that the request is not one the provider, or we, would take.
	CallRefused events.Code = "call_refused"
	// CallUnavailable says that no provider could be had.
	CallUnavailable events.Code = "call_unavailable"
	// Uncertain says that nobody knows whether the provider was asked.
	Uncertain events.Code = "call_uncertain"
	// OutputInvalid says that the model gave nothing that the prompt's schema allows.
	OutputInvalid events.Code = "output_invalid"
)

// ReserveBudget puts money by, so that a saga does not begin what it cannot pay for.
// What is not used goes back with [ReleaseBudget], which is its undo, or when the
// reservation expires.
var ReserveBudget = events.NewCommand[ReserveBudgetRequest, BudgetReservation]("ai.budget.reserve.v1", BudgetExhausted, RateLimited)

// ReserveBudgetRequest says how much to put by for whom.
type ReserveBudgetRequest struct {
	// Reservation is the id that the saga gives it, a UUID, such as its own.
	Reservation string `json:"reservation" jsonschema:"format=uuid"`
	Caller      Caller `json:"caller"`
	NanoUSD     int64  `json:"nano_usd" jsonschema:"minimum=1" jsonschema_description:"Money, in billionths of a dollar."`
	Tokens      int64  `json:"tokens,omitempty" jsonschema:"minimum=0" jsonschema_description:"Tokens, where the caller has a limit on them."`
	Calls       int64  `json:"calls,omitempty" jsonschema:"minimum=0" jsonschema_description:"Calls, where the caller has a limit on them; one by default."`
	// Seconds is how long it is kept at most: an hour by default.
	Seconds int64 `json:"seconds,omitempty" jsonschema:"minimum=1,maximum=2592000" jsonschema_description:"How long it is kept at most; an hour by default."`
}

// BudgetReservation names what was put by.
type BudgetReservation struct {
	Reservation string `json:"reservation"`
	Budgets     int    `json:"budgets" jsonschema_description:"How many budgets it is held against; 0 when the caller has none."`
}

// ReleaseBudget gives back what is left of a reservation.
var ReleaseBudget = events.NewCommand[ReleaseBudgetRequest, events.None]("ai.budget.release.v1")

// ReleaseBudgetRequest names the reservation.
type ReleaseBudgetRequest struct {
	Reservation string `json:"reservation" jsonschema:"format=uuid"`
}

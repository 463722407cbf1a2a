package ai

import (
	"fmt"

	"github.com/google/uuid"
)

// CallID names one call of a model as a client sees it, whatever number of attempts
// it takes. It is a UUIDv7: the time within it says which month of the books holds it.
type CallID uuid.UUID

// NewCallID returns a fresh id.
func NewCallID() CallID { return CallID(uuid.Must(uuid.NewV7())) }

// ParseCallID reads the text form of an id.
func ParseCallID(text string) (CallID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return CallID{}, fmt.Errorf("call id %q: %w", text, err)
	}
	return CallID(id), nil
}

// String returns the text form.
func (id CallID) String() string { return uuid.UUID(id).String() }

// IsZero reports that there is no id.
func (id CallID) IsZero() bool { return id == CallID{} }

// MarshalText implements [encoding.TextMarshaler].
func (id CallID) MarshalText() ([]byte, error) { return uuid.UUID(id).MarshalText() }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *CallID) UnmarshalText(text []byte) error { return (*uuid.UUID)(id).UnmarshalText(text) }

// Caller is who pays for a call. All three come from what the edge has checked, never
// from what a client sends. App and Key may be empty.
type Caller struct {
	Tenant string `json:"tenant"` // never empty, see [DefaultTenant]
	App    string `json:"app,omitempty"`
	// Key is the id of the client's key, such as its name in the configuration. It is
	// never the secret.
	Key string `json:"key,omitempty"`
}

// DefaultTenant pays for calls of clients that have no tenant: those of a gateway that
// asks for no credential, and those whose credential names none.
const DefaultTenant = "default"

// Model is what a deployment sends to: the provider as the price catalogue calls it
// (openai, anthropic, google, …) and the provider's own name of the model.
type Model struct {
	Provider string `json:"provider"`
	Name     string `json:"model"`
}

// Extra is what a call may ask for besides, and which costs something else than the
// tokens of its model do.
type Extra string

// The extras.
const (
	LongCache   Extra = "cache-1h"     // what goes into the provider's cache stays for an hour
	Audio       Extra = "audio"        // sound is heard or spoken
	HostedTools Extra = "hosted-tools" // the provider searches the web, runs code, …
)

// With returns how the model is called by the price catalogue when that is asked for:
// its provider is openai+audio then.
func (m Model) With(extra Extra) Model {
	if extra != "" {
		m.Provider += "+" + string(extra)
	}
	return m
}

// String returns provider/model.
func (m Model) String() string { return m.Provider + "/" + m.Name }

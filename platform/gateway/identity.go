package gateway

import (
	"context"

	"github.com/countermand/countermand/events"
)

// Identity is who sent a request. The zero value is nobody in particular: the
// gateway asks for no credential by itself. A handler in front of it that does
// puts the identity into the context of the request, see [WithIdentity]. From
// there it goes into the ids of operations, so into what an Idempotency-Key
// belongs to and into who may see an operation, into guards and into events.
type Identity struct {
	// Tenant owns operations: another tenant's are not found. At most 64 characters
	// of a to z, A to Z, 0 to 9, full stop, underscore and hyphen.
	Tenant string
	// Client is who acts for the tenant, such as the id of an API key. The same rule.
	Client string
	// Scopes are what the client may do, for guards.
	Scopes []string
}

type identityKey struct{}

// WithIdentity returns a context in which the gateway finds the identity.
func WithIdentity(ctx context.Context, identity Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, identity)
}

// IdentityOf returns the identity that [WithIdentity] has put into ctx, or the zero
// value.
func IdentityOf(ctx context.Context) Identity {
	identity, _ := ctx.Value(identityKey{}).(Identity)
	return identity
}

// tenantExtension and clientExtension are the event attributes that tell who sent
// a command. Only the gateway sets them.
const (
	tenantExtension = events.TenantExtension
	clientExtension = "clientid"
)

// mark sets the attributes of an event that the identity sent.
func (i Identity) mark(e *events.Event) {
	if i.Tenant != "" {
		e.SetExtension(tenantExtension, i.Tenant)
	}
	if i.Client != "" {
		e.SetExtension(clientExtension, i.Client)
	}
}

package gateway

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/countermand/countermand/events"
)

// Identity is who sent a request. The zero value is nobody in particular. A handler in
// front of the gateway that asks for a credential itself puts the identity into the
// context of the request, see [WithIdentity]. From there it goes into the ids of
// operations, so into what an Idempotency-Key belongs to and into who may see an
// operation, into guards and into events.
type Identity struct {
	// Tenant owns operations: another tenant's are not found. At most 64 characters
	// of a to z, A to Z, 0 to 9, full stop, underscore and hyphen.
	Tenant string
	// Client is who acts for the tenant, such as an application. It stays the same
	// when its credential is replaced. The same rule.
	Client string
	// Key names the credential, such as the id of an API key; it is no secret. Empty
	// when the credential has no name.
	Key string
	// Scopes are what the client may do.
	Scopes []string
	// Expires is when the credential ends; zero for one that does not.
	Expires time.Time
	// Recheck asks whether the credential is still taken: it may have been revoked.
	// It is cheap enough to be called for every client every few seconds, and safe
	// for concurrent use. Nil when there is nothing to ask.
	Recheck func(ctx context.Context) bool
}

// Has reports whether the scope is one of the client's.
func (i Identity) Has(scope string) bool { return slices.Contains(i.Scopes, scope) }

// Valid reports whether the credential is still taken now. What serves a client for
// longer than a request, such as a stream, asks again every few seconds and ends when
// it is not.
func (i Identity) Valid(ctx context.Context) bool {
	if !i.Expires.IsZero() && !time.Now().Before(i.Expires) {
		return false
	}
	return i.Recheck == nil || i.Recheck(ctx)
}

// whenEnded calls then once the credential is no longer taken, unless ctx has ended
// before. stop frees what that takes.
func (i Identity) whenEnded(ctx context.Context, every time.Duration, then func()) (stop func()) {
	if i.Expires.IsZero() && i.Recheck == nil {
		return func() {}
	}
	pause := func() time.Duration {
		switch left := time.Until(i.Expires); {
		case i.Expires.IsZero():
			return every
		case i.Recheck == nil:
			return left
		default:
			return min(left, every)
		}
	}
	var timer *time.Timer
	timer = time.AfterFunc(math.MaxInt64, func() {
		switch {
		case ctx.Err() != nil:
		case i.Valid(ctx):
			timer.Reset(pause())
		default:
			then()
		}
	})
	timer.Reset(pause())
	return func() { timer.Stop() }
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
	clientExtension = events.ClientExtension
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

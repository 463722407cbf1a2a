package events

// Extensions that the gateway sets on what comes in from outside.
const (
	// TenantExtension names who owns what the event begins. Only the gateway sets it:
	// from what it has checked, never from what a client sends.
	TenantExtension = "tenantid"
	// ClientExtension names who sent it on behalf of that tenant. The same rule.
	ClientExtension = "clientid"
	// ExpiryExtension is the CloudEvents extension expirytime: after that RFC 3339
	// time nobody has a use for the event.
	ExpiryExtension = "expirytime"
)

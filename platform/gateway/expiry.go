package gateway

import (
	"time"

	"github.com/countermand/countermand/events"
)

// expiryHeader carries the CloudEvents extension expirytime: after that time the
// client has no use for the command.
const (
	expiryHeader    = "Ce-Expirytime"
	expiryExtension = events.ExpiryExtension
)

// parseExpiry reads the values of the header. fault is not empty when there is one
// that is no time; expired says that it has passed.
func parseExpiry(values []string, now time.Time) (text string, expired bool, fault string) {
	if len(values) == 0 {
		return "", false, ""
	}
	at, err := time.Parse(time.RFC3339Nano, values[0])
	at = at.UTC()
	if len(values) > 1 || err != nil || at.Year() < 0 || at.Year() > 9999 { // in UTC it may be a year that RFC 3339 does not have
		return "", false, "The header must hold one RFC 3339 time, such as 2026-11-22T10:00:00Z."
	}
	return at.Format(time.RFC3339Nano), !at.After(now), ""
}

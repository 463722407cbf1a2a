package gateway

import (
	"strconv"
	"strings"
	"time"
)

// preferences are what a client asks for in Prefer (RFC 7240) and this API
// knows.
type preferences struct {
	respondAsync bool
	wait         time.Duration
	hasWait      bool
}

// parsePrefer reads the values of the Prefer header. Preferences it does not
// know and values it cannot read are passed over, as the RFC wants; of one that
// comes twice the first counts.
func parsePrefer(values []string) preferences {
	var p preferences
	for _, line := range values {
		for preference := range strings.SplitSeq(line, ",") {
			preference, _, _ = strings.Cut(preference, ";") // its parameters
			name, value, _ := strings.Cut(preference, "=")
			switch name = strings.TrimSpace(name); {
			case strings.EqualFold(name, "respond-async"):
				p.respondAsync = true
			case strings.EqualFold(name, "wait") && !p.hasWait:
				value = strings.Trim(strings.TrimSpace(value), `"`)
				if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
					p.wait, p.hasWait = time.Duration(seconds)*time.Second, true
				}
			}
		}
	}
	return p
}

// within returns how long to wait under a route's default and cap, and what to
// put into Preference-Applied. A client that prefers both respond-async and a
// wait is answered within the wait, asynchronously after it.
func (p preferences) within(byDefault, most time.Duration) (wait time.Duration, applied string) {
	switch {
	case p.hasWait && most > 0:
		wait = min(p.wait, most)
		applied = "wait=" + strconv.Itoa(int(wait/time.Second))
		if p.respondAsync {
			applied = "respond-async, " + applied
		}
		return wait, applied
	case p.respondAsync:
		return 0, "respond-async"
	default:
		return byDefault, ""
	}
}

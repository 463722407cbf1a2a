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
	handling     string // strict, lenient, or empty
	unreadable   string // the first preference that is known and has no readable value
}

// strict reports whether the client would rather be refused than be given
// something else than it prefers.
func (p preferences) strict() bool { return p.handling == "strict" }

// parsePrefer reads the values of the Prefer header. Preferences it does not
// know and values it cannot read are passed over, as the RFC wants; of one that
// comes twice the first counts.
func parsePrefer(values []string) preferences {
	var p preferences
	unreadable := func(preference string) {
		if p.unreadable == "" {
			p.unreadable = strings.TrimSpace(preference)
		}
	}
	for _, line := range values {
		for preference := range strings.SplitSeq(line, ",") {
			preference, _, _ = strings.Cut(preference, ";") // its parameters
			name, value, _ := strings.Cut(preference, "=")
			value = strings.Trim(strings.TrimSpace(value), `"`)
			switch name = strings.TrimSpace(name); {
			case strings.EqualFold(name, "respond-async"):
				p.respondAsync = true
			case strings.EqualFold(name, "wait") && !p.hasWait:
				seconds, err := strconv.ParseUint(value, 10, 31)
				if err != nil {
					unreadable(preference)
					continue
				}
				p.wait, p.hasWait = time.Duration(seconds)*time.Second, true
			case strings.EqualFold(name, "handling") && p.handling == "":
				switch {
				case strings.EqualFold(value, "strict"):
					p.handling = "strict"
				case strings.EqualFold(value, "lenient"):
					p.handling = "lenient"
				default:
					unreadable(preference)
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
	case p.respondAsync:
		wait, applied = 0, "respond-async"
	default:
		wait = byDefault
	}
	return wait, p.withHandling(applied)
}

// withHandling adds the handling to what was applied.
func (p preferences) withHandling(applied string) string {
	switch {
	case p.handling == "":
		return applied
	case applied == "":
		return "handling=" + p.handling
	}
	return applied + ", handling=" + p.handling
}

// refusal tells why a client that wants strict handling is refused before
// anything is done; empty when it is not.
func (p preferences) refusal(most time.Duration) string {
	switch {
	case !p.strict():
		return ""
	case p.unreadable != "":
		return "The preference " + strconv.Quote(p.unreadable) + " cannot be read, and the handling is to be strict."
	case p.hasWait && p.wait > most:
		return "At most wait=" + strconv.Itoa(int(most/time.Second)) + " is granted here, and the handling is to be strict."
	}
	return ""
}

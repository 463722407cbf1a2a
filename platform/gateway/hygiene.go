package gateway

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// checkHygiene reports why r must not be routed at all: a path that different
// servers read differently, or more header fields or query parameters than any
// honest client sends. An empty code means nothing is wrong. A bad path is
// never cleaned or redirected, since what is checked must be what is forwarded.
func checkHygiene(r *http.Request) (code, detail string) {
	if detail := ambiguity(r.URL.Path, r.URL.RawPath); detail != "" {
		return codeBadPath, detail
	}
	if query := r.URL.RawQuery; len(query) > queryParametersMax && strings.Count(query, "&") >= queryParametersMax {
		return codeTooManyParameters, "At most 100 query parameters are accepted."
	}
	fields := 0
	for _, values := range r.Header {
		fields += len(values)
	}
	if fields > headersMax {
		return codeTooManyHeaders, "At most 100 header fields are accepted."
	}
	return "", ""
}

// misdirected reports whether a request is for another host than those. Where there are
// none, one that names its host in the request line is: it may be for a proxy, and what
// its Host field says is lost.
func misdirected(r *http.Request, hosts []string) bool {
	if len(hosts) == 0 {
		return r.URL.Host != ""
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(host, ".")
	return !slices.ContainsFunc(hosts, func(known string) bool { return strings.EqualFold(known, host) })
}

// ambiguity tells what makes a path unfit. raw is empty when the path's own
// encoding is the usual one.
func ambiguity(path, raw string) string {
	if path == "" || path[0] != '/' {
		return "The path must begin with a slash."
	}
	if !utf8.ValidString(path) {
		return "The path must be UTF-8."
	}
	for i := range len(path) {
		switch c := path[i]; {
		case c < ' ' || c == 0x7f:
			return "The path must not hold control characters."
		case c == '\\':
			return "The path must not hold a backslash."
		case c == '%':
			return "The path must not be encoded twice."
		case c == '/' && i+1 < len(path) && path[i+1] == '/':
			return "The path must not hold an empty segment."
		case c == '/' && dotSegment(path[i+1:]):
			return "The path must not hold dot segments."
		}
	}
	for i := 0; i+2 < len(raw); i++ {
		if raw[i] != '%' {
			continue
		}
		switch strings.ToLower(raw[i+1 : i+3]) {
		case "2e", "2f", "5c":
			return "The path must not hold an encoded dot, slash or backslash."
		}
	}
	return ""
}

// dotSegment reports whether path begins with the segment . or .., also when
// it carries parameters as in "..;x", which some servers strip.
func dotSegment(path string) bool {
	rest, ok := strings.CutPrefix(path, ".")
	if !ok {
		return false
	}
	rest = strings.TrimPrefix(rest, ".")
	return rest == "" || rest[0] == '/' || rest[0] == ';'
}

package gateway

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

const patternBytesMax = 512

var (
	literalPattern = regexp.MustCompile(`^[A-Za-z0-9._~-]+$`)
	paramPattern   = regexp.MustCompile(`^\{[a-z][a-z0-9_]*\}$`)

	// routeMethods are the methods a route may have.
	routeMethods = []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	}
	// reservedPaths and everything below them belong to the gateway.
	reservedPaths = []string{
		"/v1/commands", "/v1/operations", "/v1/subscriptions", "/v1/webhook-grants", "/openapi.json", "/asyncapi.json", "/docs",
	}
)

// parseMatch reads a method and a path pattern. A segment of the pattern is
// either literal or a parameter such as {id}, which matches one whole segment.
func parseMatch(match string) (method, pattern string, err error) {
	method, pattern, ok := strings.Cut(match, " ")
	if !ok || !slices.Contains(routeMethods, method) {
		return "", "", fmt.Errorf("want one of %s and a path, such as GET /v1/orders/{id}", strings.Join(routeMethods, ", "))
	}
	if !strings.HasPrefix(pattern, "/") || len(pattern) > patternBytesMax {
		return "", "", fmt.Errorf("the path must begin with a slash and have at most %d bytes", patternBytesMax)
	}
	params := make(map[string]bool)
	for segment := range strings.SplitSeq(pattern[1:], "/") {
		switch {
		case pattern == "/":
		case paramPattern.MatchString(segment):
			if params[segment] {
				return "", "", fmt.Errorf("the parameter %s comes twice", segment)
			}
			params[segment] = true
		case !literalPattern.MatchString(segment) || segment == "." || segment == "..":
			return "", "", fmt.Errorf("%q is neither a literal segment nor a parameter such as {id}", segment)
		}
	}
	for _, reserved := range reservedPaths {
		if reaches(pattern, reserved) {
			return "", "", fmt.Errorf("it would take requests to the built-in %s", reserved)
		}
	}
	return method, pattern, nil
}

// reaches reports whether a pattern matches a path at or below another.
func reaches(pattern, below string) bool {
	segments, prefix := strings.Split(pattern, "/"), strings.Split(below, "/")
	if len(segments) < len(prefix) {
		return false
	}
	for i, literal := range prefix {
		if segments[i] != literal && !strings.HasPrefix(segments[i], "{") {
			return false
		}
	}
	return true
}

// shapeOf is what two patterns that match the same paths have in common. Where
// a literal and a parameter both match, the literal wins, so that is no clash.
func shapeOf(pattern string) string {
	segments := strings.Split(pattern, "/")
	for i, segment := range segments {
		if strings.HasPrefix(segment, "{") {
			segments[i] = "{}"
		}
	}
	return strings.Join(segments, "/")
}

package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
)

const idempotencyKeyBytesMax = 255

// parseIdempotencyKey reads the values of the Idempotency-Key header: one
// structured-field string (RFC 9651 §3.3.3), as
// draft-ietf-httpapi-idempotency-key-header has it, or its bare characters, as
// most clients send it. present is false when there is none; fault is not empty
// when there is one that is not valid.
func parseIdempotencyKey(values []string) (key string, present bool, fault string) {
	switch len(values) {
	case 0:
		return "", false, ""
	case 1:
	default:
		return "", true, "The header must be given once."
	}
	value := strings.Trim(values[0], " \t")
	if strings.HasPrefix(value, `"`) {
		key, ok := unquote(value)
		if !ok {
			return "", true, "The header must hold one string in double quotes and nothing else."
		}
		value = key
	} else if strings.ContainsAny(value, " \",;\\") {
		return "", true, "A key with spaces, quotes, commas, semicolons or backslashes must be a string in double quotes."
	}
	if value == "" || len(value) > idempotencyKeyBytesMax {
		return "", true, "The key must have 1 to 255 characters."
	}
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return "", true, "The key must be of printable ASCII characters."
		}
	}
	return value, true, ""
}

// IdempotencyKey returns the key of a request to a [Resource]; empty when it has none.
// fault says what is wrong with one that is not valid.
func IdempotencyKey(r *http.Request) (key, fault string) {
	key, _, fault = parseIdempotencyKey(r.Header["Idempotency-Key"])
	return key, fault
}

// unquote reads a structured-field string that fills all of value.
func unquote(value string) (string, bool) {
	if len(value) < 2 || value[len(value)-1] != '"' {
		return "", false
	}
	inner := value[1 : len(value)-1]
	if strings.IndexByte(inner, '\\') < 0 && strings.IndexByte(inner, '"') < 0 {
		return inner, true
	}
	out := make([]byte, 0, len(inner))
	for i := 0; i < len(inner); i++ {
		switch c := inner[i]; {
		case c == '"':
			return "", false
		case c != '\\':
			out = append(out, c)
		case i+1 == len(inner) || inner[i+1] != '"' && inner[i+1] != '\\':
			return "", false
		default:
			i++
			out = append(out, inner[i])
		}
	}
	return string(out), true
}

const (
	// fingerprintExtension is the event attribute that tells requests with one
	// Idempotency-Key apart.
	fingerprintExtension = "fingerprint"
	fingerprintBytes     = 16
)

// fingerprint identifies what a request asks for: the same route, command and
// body always have the same one.
func fingerprint(routeID, commandType string, body []byte) string {
	h := sha256.New()
	for _, part := range []string{routeID, commandType} {
		_, _ = h.Write([]byte(part))
		_, _ = h.Write([]byte{0}) // neither part can hold it
	}
	_, _ = h.Write(body)
	var sum [sha256.Size]byte
	return hex.EncodeToString(h.Sum(sum[:0])[:fingerprintBytes])
}

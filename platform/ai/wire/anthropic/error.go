package anthropic

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire"
)

// statusOverloaded is what this format says for an upstream that has too much to do.
const statusOverloaded = 529

var errorTypes = map[int]string{
	http.StatusUnauthorized: "authentication_error", http.StatusPaymentRequired: "billing_error",
	http.StatusForbidden: "permission_error", http.StatusNotFound: "not_found_error",
	http.StatusRequestEntityTooLarge: "request_too_large", http.StatusTooManyRequests: "rate_limit_error",
	http.StatusGatewayTimeout: "timeout_error", http.StatusServiceUnavailable: "overloaded_error", statusOverloaded: "overloaded_error",
}

// AppendError appends an error as a client of this format reads it: in the body of an
// answer, or as the data of an event named error. code is no part of this format, and
// passes beside its type.
func AppendError(dst []byte, e *wire.Error) []byte {
	kind := errorTypes[e.Status]
	switch {
	case kind != "":
	case e.Status >= http.StatusInternalServerError:
		kind = "api_error"
	default:
		kind = "invalid_request_error"
	}
	type inner struct {
		Type    string `json:"type"`
		Message string `json:"message"`
		Code    string `json:"code,omitempty"`
	}
	data, err := json.Marshal(struct {
		Type  string `json:"type"`
		Error inner  `json:"error"`
	}{"error", inner{kind, e.Message, e.Code}})
	if err != nil { // cannot happen: it holds texts only
		return dst
	}
	return append(dst, data...)
}

// ReadError reads an answer that is no success, or an event that tells of an error.
func ReadError(status int, answer []byte) *wire.Error {
	e := &wire.Error{Status: status, Code: "upstream_error"}
	if gjson.ValidBytes(answer) {
		inner := gjson.GetBytes(answer, "error")
		e.Message = inner.Get("message").String()
		if kind := inner.Get("type").Str; kind != "" {
			e.Code = kind
		}
		if e.Code == "overloaded_error" {
			e.Status = http.StatusServiceUnavailable
		}
	}
	if e.Message == "" {
		e.Message = "The upstream has answered " + strings.ToLower(http.StatusText(status)) + "."
	}
	return e
}

package openai

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/wire"
)

// errorBody is the error object of this format.
type errorBody struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// AppendError appends an error as a client of this format reads it: in the body of an
// answer, or as the data of the last event of a stream.
func AppendError(dst []byte, e *wire.Error) []byte {
	b := errorBody{Message: e.Message, Type: errorType(e)}
	if e.Param != "" {
		b.Param = &e.Param
	}
	if e.Code != "" {
		b.Code = &e.Code
	}
	data, err := json.Marshal(map[string]errorBody{"error": b})
	if err != nil { // cannot happen: it holds texts only
		return dst
	}
	return append(dst, data...)
}

func errorType(e *wire.Error) string {
	switch {
	case e.Code == "budget_exhausted":
		return "insufficient_quota"
	case e.Status == http.StatusUnauthorized:
		return "authentication_error"
	case e.Status == http.StatusForbidden:
		return "permission_error"
	case e.Status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case e.Status >= http.StatusInternalServerError:
		return "server_error"
	}
	return "invalid_request_error"
}

// ReadError reads an answer that is no success.
func ReadError(status int, answer []byte) *wire.Error {
	e := &wire.Error{Status: status, Code: "upstream_error"}
	if gjson.ValidBytes(answer) {
		inner := gjson.GetBytes(answer, "error")
		if !inner.Exists() {
			inner = gjson.ParseBytes(answer)
		}
		if inner.Type == gjson.String { // llama.cpp, Ollama
			e.Message = inner.Str
		} else {
			e.Message = inner.Get("message").String()
			e.Param = inner.Get("param").Str
			if code := inner.Get("code"); code.Type == gjson.String && code.Str != "" {
				e.Code = code.Str
			}
		}
	}
	if e.Message == "" {
		e.Message = "The upstream has answered " + strings.ToLower(http.StatusText(status)) + "."
	}
	return e
}

// streamError reads an error that came as an event.
func streamError(data []byte) *wire.Error {
	status := http.StatusBadGateway
	if code := gjson.GetBytes(data, "error.code"); code.Type == gjson.Number && code.Int() >= 400 && code.Int() < 600 {
		status = int(code.Int())
	}
	return ReadError(status, data)
}

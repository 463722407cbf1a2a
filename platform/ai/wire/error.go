package wire

import (
	"net/http"
	"time"
)

// Error is a failure in terms that every wire format can tell. Its text goes to the
// client: it holds no secret.
type Error struct {
	Status int
	// Code names the failure for programs, such as budget_exhausted.
	Code string
	// Param is the field of the request that is to blame, if one is.
	Param   string
	Message string
	// RetryAfter is when it is worth another try; 0 when that is not known.
	RetryAfter time.Duration
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Invalid is the error of a request that no upstream could serve.
func Invalid(param, message string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "invalid_request", Param: param, Message: message}
}

// Cut is the error of an answer that stopped before its end.
func Cut() *Error {
	return &Error{Status: http.StatusBadGateway, Code: "upstream_cut", Message: "The upstream broke off before the end of its answer."}
}

// BadAnswer is the error of an answer that cannot be read.
func BadAnswer(why string) *Error {
	return &Error{Status: http.StatusBadGateway, Code: "upstream_answer_invalid", Message: "The upstream has answered what cannot be read: " + why + "."}
}

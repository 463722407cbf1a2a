package gateway

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
)

const contentTypeProblem = "application/problem+json"

// Problem is a problem document (RFC 9457) with the members this API adds.
type Problem struct {
	Type   string `json:"type"` // urn:countermand:problem:<code>
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Instance is the operation the problem is about, or else the path asked for.
	Instance string `json:"instance,omitempty"`
	// Code names the problem for programs: one of the catalogue or the code of a
	// saga's rejection.
	Code string `json:"code"`
	// Retriable says whether the same request may succeed later.
	Retriable bool        `json:"retriable"`
	TraceID   string      `json:"trace_id,omitempty"`
	Errors    []Violation `json:"errors,omitempty"`
}

// Violation is one thing wrong with a request body.
type Violation struct {
	Pointer string `json:"pointer"` // JSON Pointer (RFC 6901); empty for the whole document
	Detail  string `json:"detail"`
}

// Codes of the catalogue.
const (
	codeBadPath               = "bad_path"
	codeTooManyParameters     = "too_many_parameters"
	codeTooManyHeaders        = "too_many_headers"
	codeMisdirected           = "misdirected"
	codeNotFound              = "not_found"
	codeMethodNotAllowed      = "method_not_allowed"
	codeUnknownCommand        = "unknown_command"
	codeOperationNotFound     = "operation_not_found"
	codeOperationEnded        = "operation_ended"
	codeUnsupportedMediaType  = "unsupported_media_type"
	codeUnsupportedEncoding   = "unsupported_encoding"
	codeBodyTooLarge          = "body_too_large"
	codeBodyUnreadable        = "body_unreadable"
	codeRequestTimeout        = "request_timeout"
	codeMalformedJSON         = "malformed_json"
	codeInvalidRequest        = "invalid_request"
	codeInvalidEvent          = "invalid_event"
	codeRefused               = "refused"
	codeNotAcceptable         = "not_acceptable"
	codeQueryInvalid          = "query_invalid"
	codeCancelRefused         = "cancel_refused"
	codePastPivot             = "past_pivot"
	codeOperationExpired      = "operation_expired"
	codeOperationUnfinished   = "operation_unfinished"
	codeBusinessKeyInUse      = "business_key_in_use"
	codeExpired               = "expired"
	codeFilterInvalid         = "filter_invalid"
	codePositionInvalid       = "position_invalid"
	codePositionGone          = "position_gone"
	codeTooManyFollowers      = "too_many_followers"
	codeEventsUnavailable     = "events_unavailable"
	codeOverrun               = "overrun"
	codeUpgradeRequired       = "upgrade_required"
	codeSubprotocolRequired   = "subprotocol_required"
	codeOriginRefused         = "origin_refused"
	codeExpiryInvalid         = "expirytime_invalid"
	codePreferenceRefused     = "preference_refused"
	codeIdempotencyKeyInvalid = "idempotency_key_invalid"
	codeIdempotencyKeyMissing = "idempotency_key_required"
	codeIdempotencyKeyReused  = "idempotency_key_reused"
	codeCredentialRequired    = "credential_required"  //nolint:gosec // a code
	codeCredentialInvalid     = "credential_invalid"   //nolint:gosec // a code
	codeCredentialEnded       = "credential_ended"     //nolint:gosec // a code
	codeCredentialAmbiguous   = "credential_ambiguous" //nolint:gosec // a code
	codeCredentialUnchecked   = "credential_unchecked" //nolint:gosec // a code
	codeScopeMissing          = "scope_missing"
	codeOverloaded            = "overloaded"
	codeStoreUnavailable      = "store_unavailable"
	codeBrokerUnavailable     = "broker_unavailable"
	codeOperationsUnavailable = "operations_unavailable"
	codeUpstreamUnavailable   = "upstream_unavailable"
	codeUpstreamTimeout       = "upstream_timeout"
	codeCompensated           = "compensated"
	codeAbandoned             = "abandoned"
	codeInternal              = "internal_error"
)

type catalogueEntry struct {
	title     string
	status    int
	retriable bool
}

// catalogue is every problem the gateway itself can answer with. The code of a
// rejection is none of it: its status comes from the route's outcome.
var catalogue = map[string]catalogueEntry{
	codeBadPath:               {"The path is not accepted", http.StatusBadRequest, false},
	codeTooManyParameters:     {"Too many query parameters", http.StatusBadRequest, false},
	codeTooManyHeaders:        {"Too many header fields", http.StatusRequestHeaderFieldsTooLarge, false},
	codeMisdirected:           {"The request is for another host", http.StatusMisdirectedRequest, false},
	codeNotFound:              {"Nothing is here", http.StatusNotFound, false},
	codeMethodNotAllowed:      {"The method is not allowed here", http.StatusMethodNotAllowed, false},
	codeUnknownCommand:        {"There is no such command", http.StatusNotFound, false},
	codeOperationNotFound:     {"There is no such operation", http.StatusNotFound, false},
	codeOperationEnded:        {"The operation has ended", http.StatusConflict, false},
	codeUnsupportedMediaType:  {"The body must be JSON", http.StatusUnsupportedMediaType, false},
	codeUnsupportedEncoding:   {"The body must not be encoded", http.StatusUnsupportedMediaType, false},
	codeBodyTooLarge:          {"The body is too large", http.StatusRequestEntityTooLarge, false},
	codeBodyUnreadable:        {"The body could not be read", http.StatusBadRequest, true},
	codeRequestTimeout:        {"The body did not arrive in time", http.StatusRequestTimeout, true},
	codeMalformedJSON:         {"The body is not acceptable JSON", http.StatusBadRequest, false},
	codeInvalidRequest:        {"The request is not valid", http.StatusUnprocessableEntity, false},
	codeInvalidEvent:          {"The event is not valid", http.StatusBadRequest, false},
	codeNotAcceptable:         {"There is no such representation", http.StatusNotAcceptable, false},
	codePreferenceRefused:     {"The preference cannot be honoured", http.StatusBadRequest, false},
	codeExpiryInvalid:         {"The expiry time is not valid", http.StatusBadRequest, false},
	codeExpired:               {"The command came too late", http.StatusUnprocessableEntity, false},
	codeBusinessKeyInUse:      {"The business key is in use", http.StatusConflict, false},
	codeOperationUnfinished:   {"The operation is under way", http.StatusConflict, true},
	codeOperationExpired:      {"The operation is no longer kept", http.StatusGone, false},
	codePastPivot:             {"The operation can no longer be undone", http.StatusConflict, false},
	codeCancelRefused:         {"The operation cannot be cancelled from here", http.StatusConflict, false},
	codeQueryInvalid:          {"The query is not valid", http.StatusBadRequest, false},
	codeRefused:               {"The request was refused", http.StatusForbidden, false},
	codeIdempotencyKeyInvalid: {"The Idempotency-Key is not valid", http.StatusBadRequest, false},
	codeIdempotencyKeyMissing: {"An Idempotency-Key is required", http.StatusBadRequest, false},
	codeIdempotencyKeyReused:  {"The Idempotency-Key was used for another request", http.StatusUnprocessableEntity, false},
	codeCredentialRequired:    {"A credential is required", http.StatusUnauthorized, false},
	codeCredentialInvalid:     {"The credential is not taken", http.StatusUnauthorized, false},
	codeCredentialEnded:       {"The credential has ended", http.StatusUnauthorized, false},
	codeCredentialAmbiguous:   {"More than one credential", http.StatusBadRequest, false},
	codeCredentialUnchecked:   {"The credential cannot be checked", http.StatusServiceUnavailable, true},
	codeScopeMissing:          {"A scope is missing", http.StatusForbidden, false},
	codeOverloaded:            {"The service is busy", http.StatusServiceUnavailable, true},
	codeStoreUnavailable:      {"The database has not confirmed it", http.StatusServiceUnavailable, true},
	codeBrokerUnavailable:     {"The broker has not confirmed it", http.StatusServiceUnavailable, true},
	codeOperationsUnavailable: {"The state of operations is not available", http.StatusServiceUnavailable, true},
	codeUpstreamUnavailable:   {"The service behind this route is not available", http.StatusBadGateway, true},
	codeUpstreamTimeout:       {"The service behind this route did not answer in time", http.StatusGatewayTimeout, true},
	codeCompensated:           {"The operation was undone", http.StatusConflict, false},
	codeAbandoned:             {"The operation was abandoned", http.StatusInternalServerError, false},
	codeFilterInvalid:         {"The filter is not valid", http.StatusBadRequest, false},
	codePositionInvalid:       {"The position is not valid", http.StatusBadRequest, false},
	codePositionGone:          {"The position is too old", http.StatusGone, false},
	codeTooManyFollowers:      {"Too many streams are open", http.StatusTooManyRequests, true},
	codeEventsUnavailable:     {"The events are not available", http.StatusServiceUnavailable, true},
	codeOverrun:               {"The client was too slow", http.StatusServiceUnavailable, true},
	codeUpgradeRequired:       {"A WebSocket is required", http.StatusUpgradeRequired, false},
	codeSubprotocolRequired:   {"A subprotocol is required", http.StatusBadRequest, false},
	codeOriginRefused:         {"The origin is refused", http.StatusForbidden, false},
	codeInternal:              {"Something went wrong", http.StatusInternalServerError, false},
}

func newProblem(code, detail string) *Problem {
	entry := catalogue[code]
	return &Problem{
		Type: problemType(code), Title: entry.title, Status: entry.status,
		Detail: detail, Code: code, Retriable: entry.retriable,
	}
}

// newRejection returns the problem of an operation that was undone for a
// business reason. Its title is the code in words.
func newRejection(code string, status int, detail string) *Problem {
	title := strings.ReplaceAll(code, "_", " ")
	if title != "" {
		title = strings.ToUpper(title[:1]) + title[1:]
	}
	return &Problem{Type: problemType(code), Title: title, Status: status, Detail: detail, Code: code}
}

func problemType(code string) string { return "urn:countermand:problem:" + code }

// encode returns v as JSON with <, > and & as they are: nothing here is HTML.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

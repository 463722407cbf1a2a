package webhook

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/countermand/countermand/platform/answer"
	"github.com/countermand/countermand/platform/gateway"
)

const (
	bodyBytesMax = 64 << 10
	listDefault  = 50
)

// refusal is an answer that says no.
type refusal struct {
	status int
	code   string
	title  string
	detail string
	errors []gateway.Violation
}

func (f refusal) Error() string { return f.code + ": " + f.detail }

// api answers requests about subscriptions, for subscribers and for operators.
type api struct {
	store *Store
	// scope tells what the sender of a request may see, or why it may see nothing.
	scope func(r *http.Request) (Scope, error)
}

// handle makes a handler of a function that may fail. Its errors become problem
// documents.
func (a api) handle(serve func(w http.ResponseWriter, r *http.Request, scope Scope) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope, err := a.scope(r)
		if err == nil {
			err = serve(w, r, scope)
		}
		if err != nil {
			a.fail(w, r, err)
		}
	})
}

func (a api) fail(w http.ResponseWriter, r *http.Request, err error) {
	f, told := errors.AsType[refusal](err)
	invalid, isInvalid := errors.AsType[InvalidError](err)
	switch {
	case told:
	case isInvalid:
		f = refusal{http.StatusUnprocessableEntity, "invalid_subscription", "The subscription is not valid", "Nothing was changed: " + invalid.Error() + ".", nil}
		for _, v := range invalid {
			f.errors = append(f.errors, gateway.Violation{Pointer: v.Pointer, Detail: v.Detail})
		}
	case errors.Is(err, ErrNotFound):
		f = refusal{http.StatusNotFound, "subscription_not_found", "There is no such subscription or delivery", "", nil}
	case errors.Is(err, ErrRevision):
		f = refusal{http.StatusPreconditionFailed, "revision_moved", "The subscription has changed", "Read it again: it was changed since the revision of If-Match.", nil}
	case errors.Is(err, ErrKeyReused):
		f = refusal{http.StatusUnprocessableEntity, "idempotency_key_reused", "The Idempotency-Key was used for another request", "Use a new key for a new subscription.", nil}
	case errors.Is(err, ErrTooMany):
		f = refusal{http.StatusForbidden, "too_many_subscriptions", "There are too many subscriptions", "Delete one that is not needed any more.", nil}
	case errors.Is(err, ErrState):
		f = refusal{http.StatusConflict, "subscription_state", "The subscription's state does not allow it", sentence(err.Error()), nil}
	case errors.Is(err, ErrCursor):
		f = refusal{http.StatusBadRequest, "query_invalid", "The query is not valid", "cursor: it is none that a list has returned.", nil}
	default:
		if r.Context().Err() == nil {
			a.store.config.Logger.ErrorContext(r.Context(), "request about webhooks failed", "path", r.URL.Path, "error", err)
		}
		w.Header().Set("Retry-After", "1")
		f = refusal{http.StatusServiceUnavailable, "subscriptions_unavailable", "The subscriptions are not available", "They could not be read or written now.", nil}
	}
	if f.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="countermand"`)
	}
	gateway.Answer(w, r, &gateway.Problem{
		Code: f.code, Title: f.title, Status: f.status, Detail: f.detail, Retriable: f.status == http.StatusServiceUnavailable, Errors: f.errors,
	})
}

// sentence makes one of an error's text.
func sentence(text string) string {
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// body decodes a request strictly: no unknown fields, no field twice, nothing behind it.
// Empty bodies are left alone where the body may be left out.
func body(w http.ResponseWriter, r *http.Request, into any, optional bool) error {
	_, err := rawBody(w, r, into, optional)
	return err
}

// rawBody is body, and returns what was sent.
func rawBody(w http.ResponseWriter, r *http.Request, into any, optional bool) (raw []byte, err error) {
	raw, err = io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, refusal{http.StatusRequestEntityTooLarge, "body_too_large", "The body is too large", fmt.Sprintf("At most %d bytes are accepted.", tooLarge.Limit), nil}
	} else if err != nil {
		return nil, refusal{http.StatusBadRequest, "body_unreadable", "The body could not be read", "It was cut short or framed wrongly.", nil}
	}
	if optional && len(bytes.TrimSpace(raw)) == 0 {
		return raw, nil
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" && !strings.HasSuffix(media, "+json") {
		return nil, refusal{http.StatusUnsupportedMediaType, "unsupported_media_type", "The body must be JSON", "Send the body as application/json.", nil}
	}
	if holdsNUL(raw) {
		return nil, refusal{http.StatusBadRequest, "malformed_json", "The body is not acceptable JSON", "The character U+0000 is not accepted.", nil}
	}
	err = json.Unmarshal(raw, into, json.RejectUnknownMembers(true))
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return nil, refusal{http.StatusBadRequest, "malformed_json", "The body is not acceptable JSON", sentence(syntactic.Err.Error() + " at byte " + strconv.FormatInt(syntactic.ByteOffset, 10)), nil}
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		detail := "has a value of the wrong type"
		if errors.Is(semantic.Err, json.ErrUnknownName) {
			detail = "unknown field"
		}
		return nil, InvalidError{{string(semantic.JSONPointer), detail}}
	}
	if err != nil {
		return nil, refusal{http.StatusBadRequest, "malformed_json", "The body is not acceptable JSON", "It cannot be decoded.", nil}
	}
	return raw, nil
}

// holdsNUL reports whether a string in a JSON document holds U+0000, which Postgres does
// not store.
func holdsNUL(document []byte) bool {
	const escape = `\u0000`
	for {
		at := bytes.Index(document, []byte(escape))
		if at < 0 {
			return false
		}
		before := document[:at]
		if backslashes := len(before) - len(bytes.TrimRight(before, `\`)); backslashes%2 == 0 {
			return true // or the backslash is one that is escaped itself
		}
		document = document[at+len(escape):]
	}
}

// one answers with a subscription and its ETag.
func one(w http.ResponseWriter, status int, s Subscription, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("ETag", `"`+strconv.FormatInt(s.Revision, 10)+`"`)
	return answer.JSON(w, status, s)
}

// ifMatch returns the revision that If-Match names; any when there is none.
func ifMatch(r *http.Request) (int64, error) {
	tag := r.Header.Get("If-Match")
	if tag == "" || tag == "*" {
		return AnyRevision, nil
	}
	revision, err := strconv.ParseInt(strings.Trim(tag, `"`), 10, 64)
	if err != nil || revision < 1 {
		return 0, ErrRevision
	}
	return revision, nil
}

// query reads parameters, each at most once. read is called for each, and returns what
// is wanted in place of what it cannot read.
func query(values url.Values, read func(name, value string) (want string)) error {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		want := "it comes once"
		if value := values[name][0]; len(values[name]) == 1 {
			if want = "a text in UTF-8 without U+0000"; utf8.ValidString(value) && !strings.ContainsRune(value, 0) {
				want = read(name, value)
			}
		}
		if want != "" {
			return refusal{http.StatusBadRequest, "query_invalid", "The query is not valid", name + ": want " + want + ".", nil}
		}
	}
	return nil
}

// paging reads cursor and limit, and leaves other parameters to rest.
func paging(values url.Values, rest func(name, value string) string) (cursor string, limit int, err error) {
	limit = listDefault
	err = query(values, func(name, value string) string {
		switch name {
		case "cursor":
			cursor = value
		case "limit":
			n, err := strconv.Atoi(value)
			if limit = n; err != nil || n < 1 || n > ListMax {
				return "a number from 1 to " + strconv.Itoa(ListMax)
			}
		default:
			return rest(name, value)
		}
		return ""
	})
	return cursor, limit, err
}

// states that a list of subscriptions may be asked for.
var states = []string{string(Pending), string(Active), string(Paused), string(Disabled)}

func (a api) page(r *http.Request, scope Scope) (Page, error) {
	var state State
	cursor, limit, err := paging(r.URL.Query(), func(name, value string) string {
		if name != "state" || !slices.Contains(states, value) {
			return "state with one of " + strings.Join(states, ", ") + ", cursor or limit"
		}
		state = State(value)
		return ""
	})
	if err != nil {
		return Page{}, err
	}
	return a.store.List(r.Context(), scope, state, cursor, limit)
}

// next adds the link to the next part of a list.
func next(w http.ResponseWriter, r *http.Request, cursor string) {
	if cursor == "" {
		return
	}
	values := r.URL.Query()
	values.Set("cursor", cursor)
	w.Header().Set("Link", "<"+r.URL.EscapedPath()+"?"+values.Encode()+`>; rel="next"`)
}

func (a api) get(w http.ResponseWriter, r *http.Request, scope Scope) error {
	s, err := a.store.Get(r.Context(), scope, r.PathValue("id"))
	return one(w, http.StatusOK, s, err)
}

func (a api) delete(w http.ResponseWriter, r *http.Request, scope Scope) error {
	revision, err := ifMatch(r)
	if err != nil {
		return err
	}
	if err := a.store.Delete(r.Context(), scope, r.PathValue("id"), revision); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a api) pause(w http.ResponseWriter, r *http.Request, scope Scope) error {
	var order struct {
		Reason string `json:"reason"`
	}
	if err := body(w, r, &order, true); err != nil {
		return err
	}
	s, err := a.store.Pause(r.Context(), scope, r.PathValue("id"), order.Reason)
	return one(w, http.StatusOK, s, err)
}

func (a api) resume(w http.ResponseWriter, r *http.Request, scope Scope) error {
	s, err := a.store.Resume(r.Context(), scope, r.PathValue("id"))
	return one(w, http.StatusOK, s, err)
}

func (a api) test(w http.ResponseWriter, r *http.Request, scope Scope) error {
	d, err := a.store.Test(r.Context(), scope, r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusAccepted, d)
}

// DeliveryList is the body of a list of deliveries.
type DeliveryList struct {
	Deliveries []Delivery `json:"deliveries"`
	// Next continues the list as ?cursor=; absent on the last page.
	Next string `json:"next,omitempty"`
}

var deliveryStates = []string{DeliveryPending, DeliveryDelivered, DeliveryDead}

func (a api) deliveries(w http.ResponseWriter, r *http.Request, scope Scope) error {
	var f DeliveryFilter
	cursor, limit, err := paging(r.URL.Query(), func(name, value string) string {
		var err error
		switch name {
		case "state":
			if f.State = value; !slices.Contains(deliveryStates, value) {
				return "one of " + strings.Join(deliveryStates, ", ")
			}
		case "type":
			f.Type = value
		case "created_after":
			f.After, err = time.Parse(time.RFC3339Nano, value)
		case "created_before":
			f.Before, err = time.Parse(time.RFC3339Nano, value)
		default:
			return "created_after, created_before, cursor, limit, state or type"
		}
		if err != nil {
			return "an RFC 3339 time such as 2026-11-22T10:00:00Z"
		}
		return ""
	})
	if err != nil {
		return err
	}
	page, err := a.store.Deliveries(r.Context(), scope, r.PathValue("id"), f, cursor, limit)
	if err != nil {
		return err
	}
	next(w, r, page.Next)
	return answer.JSON(w, http.StatusOK, DeliveryList(page))
}

func (a api) delivery(w http.ResponseWriter, r *http.Request, scope Scope) error {
	d, err := a.store.Delivery(r.Context(), scope, r.PathValue("delivery"))
	if err == nil && d.Subscription != r.PathValue("id") {
		err = ErrNotFound
	}
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, d)
}

// RedeliverOrder is the body of an order to send deliveries again: one by its id, or
// those that have ended and are selected. Without either, the dead letters.
type RedeliverOrder struct {
	Delivery      string    `json:"delivery,omitempty"`
	State         string    `json:"state,omitempty"` // dead by default, or delivered
	Type          string    `json:"type,omitempty"`
	CreatedAfter  time.Time `json:"created_after,omitzero"`
	CreatedBefore time.Time `json:"created_before,omitzero"`
}

// Redelivered is the answer to a [RedeliverOrder]. As many as [RedeliverMax] are sent
// again by one order: repeat it until it is none.
type Redelivered struct {
	Redelivered int `json:"redelivered"`
}

func (a api) redeliver(w http.ResponseWriter, r *http.Request, scope Scope) error {
	var order RedeliverOrder
	if err := body(w, r, &order, true); err != nil {
		return err
	}
	order.State = cmp.Or(order.State, DeliveryDead)
	if order.State != DeliveryDead && order.State != DeliveryDelivered {
		return InvalidError{{"/state", "want dead or delivered"}}
	}
	n, err := a.store.Redeliver(r.Context(), scope, r.PathValue("id"), order.Delivery,
		DeliveryFilter{State: order.State, Type: order.Type, After: order.CreatedAfter, Before: order.CreatedBefore})
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusAccepted, Redelivered{n})
}

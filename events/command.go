package events

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// Code names a business reason for a "no", lower-case with underscores, such as
// out_of_stock. Codes are part of the contract: clients see them as the code of
// a problem document.
type Code string

// Rejection is a participant's business "no". It is not a failure: it travels
// as a reply and makes the saga compensate. Handlers return it as their error;
// see [Reject].
type Rejection struct {
	Code    Code   `json:"code"`
	Message string `json:"message,omitempty"`
}

// Reject returns a rejection for a handler to return. The message is shown to
// the client, so it must hold no secret and no internal name.
func Reject(code Code, format string, args ...any) error {
	return &Rejection{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Error makes a Rejection returnable from a handler.
func (r *Rejection) Error() string { return string(r.Code) + ": " + r.Message }

// None is the request or reply of a contract that carries no data.
type None struct{}

// Command is the contract of a command: its type name, the Go types of its
// request Q and reply R, and the codes it may be rejected with. Make it with
// [NewCommand] and keep it in a package variable.
type Command[Q, R any] struct {
	name       string
	rejections []Code
}

// NewCommand returns the contract of the command type name. It panics when the
// name breaks the naming rule, since contracts are package variables and a
// wrong one is a programmer's mistake found at start-up.
func NewCommand[Q, R any](name string, rejections ...Code) Command[Q, R] {
	if err := ValidateType(name); err != nil {
		panic(err)
	}
	return Command[Q, R]{name: name, rejections: rejections}
}

// Type returns the type name of the command.
func (c Command[Q, R]) Type() string { return c.name }

// Topic returns where the command is sent.
func (c Command[Q, R]) Topic() Topic { return CommandTopic(c.name) }

// Rejections returns the declared codes. The caller must not change the slice.
func (c Command[Q, R]) Rejections() []Code { return c.rejections }

// Describe returns what tools need to know of the contract.
func (c Command[Q, R]) Describe() Descriptor {
	return Descriptor{
		Type: c.name, Topic: c.Topic(), Kind: KindCommand,
		Request: reflect.TypeFor[Q](), Reply: reflect.TypeFor[R](), Rejections: c.rejections,
	}
}

// New returns the command as an event with that id, from source, at now.
// It fails only when q cannot be encoded as JSON.
func (c Command[Q, R]) New(id, source string, q Q, now time.Time) (Event, error) {
	return encode(c.name, id, source, q, now)
}

// Request decodes the request that e carries.
func (c Command[Q, R]) Request(e *Event) (Q, error) { return decode[Q](e) }

// Suffixes that make the types of replies out of the type of their command.
const (
	replySuffix     = ".reply"
	rejectionSuffix = ".rejected"
)

// NewReply returns the reply to cmd with data already encoded as JSON (nil for a
// reply of type [None]), addressed to the saga that sent it: same correlation and partition key, caused by cmd.
// A non-nil rejection makes it a rejection. The reply's id derives from the
// command's, so the same command always has the same reply.
func NewReply(cmd *Event, source string, data []byte, rejection *Rejection, now time.Time) (Event, error) {
	e := Event{
		ID: DeriveID(cmd.ID, "reply"), Source: source, Type: cmd.Type + replySuffix, Subject: cmd.Subject, Time: now,
		Data:          data,
		CorrelationID: cmd.CorrelationID, CausationID: cmd.ID, PartitionKey: cmd.PartitionKey,
	}
	if rejection != nil {
		e.Type = cmd.Type + rejectionSuffix
		body, err := json.Marshal(rejection)
		if err != nil {
			return Event{}, fmt.Errorf("encode rejection of %s: %w", cmd.Type, err)
		}
		e.Data = body
	}
	if len(e.Data) > 0 {
		e.DataContentType = ContentTypeJSON
	}
	return e, nil
}

// ReplyOf splits the type of a reply: the type of the command it answers, and
// whether it rejects it. ok is false when e is not a reply.
func ReplyOf(e *Event) (commandType string, rejected, ok bool) {
	if n := len(e.Type) - len(replySuffix); n > 0 && e.Type[n:] == replySuffix {
		return e.Type[:n], false, true
	}
	if n := len(e.Type) - len(rejectionSuffix); n > 0 && e.Type[n:] == rejectionSuffix {
		return e.Type[:n], true, true
	}
	return "", false, false
}

// Fact is the contract of an event that tells what happened: its type name and
// the Go type of its payload.
type Fact[T any] struct{ name string }

// NewFact returns the contract of the fact type name; it panics like [NewCommand].
func NewFact[T any](name string) Fact[T] {
	if err := ValidateType(name); err != nil {
		panic(err)
	}
	return Fact[T]{name: name}
}

// Type returns the type name of the fact.
func (f Fact[T]) Type() string { return f.name }

// Topic returns where the fact is published.
func (f Fact[T]) Topic() Topic { return FactTopic(f.name) }

// Describe returns what tools need to know of the contract.
func (f Fact[T]) Describe() Descriptor {
	return Descriptor{Type: f.name, Topic: f.Topic(), Kind: KindFact, Request: reflect.TypeFor[T]()}
}

// New returns the fact as an event with that id, from source, at now.
func (f Fact[T]) New(id, source string, payload T, now time.Time) (Event, error) {
	return encode(f.name, id, source, payload, now)
}

// Payload decodes the payload that e carries.
func (f Fact[T]) Payload(e *Event) (T, error) { return decode[T](e) }

func encode(name, id, source string, payload any, now time.Time) (Event, error) {
	data, err := json.Marshal(payload)
	if err != nil {
		return Event{}, fmt.Errorf("encode %s: %w", name, err)
	}
	return Event{
		ID: id, Source: source, Type: name, Time: now.UTC(), DataContentType: ContentTypeJSON, Data: data,
	}, nil
}

func decode[T any](e *Event) (T, error) {
	var payload T
	if len(e.Data) == 0 {
		// A zero payload that nobody sent must not be acted upon.
		if reflect.TypeFor[T]() != reflect.TypeFor[None]() {
			return payload, fmt.Errorf("%w: decode %s %s: it has no data", ErrInvalid, e.Type, e.ID)
		}
		return payload, nil
	}
	if err := json.Unmarshal(e.Data, &payload); err != nil {
		return payload, fmt.Errorf("%w: decode %s %s: %w", ErrInvalid, e.Type, e.ID, err)
	}
	return payload, nil
}

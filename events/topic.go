package events

import (
	"fmt"
	"regexp"
	"strings"
)

// Topic is where events go: a family of JetStream subjects or a Kafka topic.
// Its name is dotted lower-case; the first segment is its domain, and topics of
// one domain share a JetStream stream.
type Topic string

// Topics of the platform itself.
const (
	// Replies carries every reply to a saga's command, keyed by saga id.
	Replies Topic = "saga.replies"
	// Outcomes carries the event that each saga emits when its status becomes
	// final or needs a person, keyed by saga id.
	Outcomes Topic = "saga.outcomes"
	// Signals carries what is addressed to one running saga: facts that it waits
	// for, and its cancellation, keyed by saga id.
	Signals Topic = "saga.signals"
)

// CancelType is the type of the event that asks a saga to compensate, sent on
// [Signals] with the saga's id as its correlation id.
const CancelType = "saga.cancel.v1"

var typePattern = regexp.MustCompile(`^[a-z][a-z0-9]*(\.[a-z][a-z0-9_-]*){1,6}\.v[1-9][0-9]{0,3}$`)

// segmentsMax is how many segments a topic may have.
const segmentsMax = 7

// Domain returns the first segment of the topic.
func (t Topic) Domain() string {
	domain, _, _ := strings.Cut(string(t), ".")
	return domain
}

// Validate reports a name that cannot be a subject on every supported broker.
func (t Topic) Validate() error {
	if len(t) > 128 || !validTopic(string(t)) {
		return fmt.Errorf("topic %q: want dotted lower-case segments such as shop.inventory.commands", t)
	}
	return nil
}

// validTopic reports dotted segments that begin with a letter. It is a loop and no
// regular expression because every hop of every event asks.
func validTopic(t string) bool {
	segments, fresh := 1, true // fresh: the next byte begins a segment
	for i := range len(t) {
		c := t[i]
		switch {
		case c >= 'a' && c <= 'z':
			fresh = false
		case fresh:
			return false
		case c >= '0' && c <= '9', segments > 1 && (c == '_' || c == '-'):
		case c == '.':
			segments++
			fresh = true
		default:
			return false
		}
	}
	return !fresh && segments <= segmentsMax
}

// typeNameBytesMax leaves room in an event's type for the longest that is made out of
// the name of a contract: the rejection of what undoes a whole saga. Outcomes and topics
// need less.
const typeNameBytesMax = TypeBytesMax - len(compensationSuffix+rejectionSuffix)

// ValidateType reports a type name that breaks the naming rule of this package.
func ValidateType(name string) error {
	switch {
	case len(name) > typeNameBytesMax:
		return fmt.Errorf("type %q has %d bytes, at most %d are allowed, because the types of its replies are made by appending to it: shorten a segment",
			name, len(name), typeNameBytesMax)
	case !typePattern.MatchString(name):
		return fmt.Errorf("type %q: want dotted lower-case segments and a version, such as shop.inventory.reserve.v1", name)
	}
	return nil
}

// CommandTopic returns the topic of a command type: shop.inventory.reserve.v1
// goes to shop.inventory.commands.
func CommandTopic(commandType string) Topic { return Topic(subject(commandType) + ".commands") }

// FactTopic returns the topic of a fact type: shop.order.confirmed.v1 goes to
// shop.order.events.
func FactTopic(factType string) Topic { return Topic(subject(factType) + ".events") }

// OutcomeType returns the type of the outcome event that a saga started by
// commandType emits at that status: shop.checkout.request.v1 completes as
// shop.checkout.completed.v1.
func OutcomeType(commandType, status string) string {
	return subject(commandType) + "." + status + ".v1"
}

// CompensationType returns the type of the command that has a whole saga undone
// which that command started: it goes to the same topic.
func CompensationType(commandType string) string { return commandType + compensationSuffix }

// CompensatedType is the reverse of [CompensationType]; ok is false when the type
// is none of those.
func CompensatedType(compensationType string) (commandType string, ok bool) {
	return strings.CutSuffix(compensationType, compensationSuffix)
}

const compensationSuffix = ".compensate"

// subject strips the verb and the version off a type name.
func subject(name string) string {
	name = name[:max(strings.LastIndexByte(name, '.'), 0)]
	return name[:max(strings.LastIndexByte(name, '.'), 0)]
}

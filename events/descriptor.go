package events

import "reflect"

// Kind tells a command from a fact.
type Kind string

// The kinds of contract.
const (
	KindCommand Kind = "command"
	KindFact    Kind = "fact"
)

// Descriptor is what schema generators, the gateway and the documentation know
// of a contract. Reply and Rejections are set for commands only.
type Descriptor struct {
	Type       string
	Topic      Topic
	Kind       Kind
	Request    reflect.Type
	Reply      reflect.Type
	Rejections []Code
}

// Contract is any contract value, whatever its Go types.
type Contract interface{ Describe() Descriptor }

package filter

import (
	"time"

	cesql "github.com/cloudevents/sdk-go/sql/v2"
	"github.com/cloudevents/sdk-go/sql/v2/utils"
	cloudevents "github.com/cloudevents/sdk-go/v2/event"

	"github.com/countermand/countermand/events"
)

// Input is an event that filters are asked about. It is not safe for concurrent use.
type Input struct {
	Event *events.Event

	sdk  *cloudevents.Event // made when the first sql expression asks for it
	made bool
}

// attribute returns an attribute of an event in its CloudEvents string form, and
// false when the event does not have it.
func attribute(e *events.Event, name string) (value string, ok bool) {
	switch name {
	case "specversion":
		return cloudevents.CloudEventsVersionV1, true
	case "id":
		value = e.ID
	case "source":
		value = e.Source
	case "type":
		value = e.Type
	case "subject":
		value = e.Subject
	case "datacontenttype":
		value = e.DataContentType
	case "dataschema":
		value = e.DataSchema
	case "time":
		if !e.Time.IsZero() {
			value = e.Time.UTC().Format(time.RFC3339Nano)
		}
	default:
		value = e.Extension(name)
	}
	return value, value != ""
}

// evaluate tells whether an expression of CESQL is true. One that has no value for
// this event is false, as the Subscriptions API wants it.
func (in *Input) evaluate(expression cesql.Expression) bool {
	if !in.made {
		in.made = true
		bare := *in.Event
		bare.Data = nil // an expression sees no data
		if sdk, err := bare.CloudEvent(); err == nil {
			in.sdk = &sdk
		}
	}
	if in.sdk == nil { // no CloudEvent by the rules of the SDK
		return false
	}
	return truth(expression, *in.sdk)
}

// truth is false where an expression makes the SDK panic, as SUBSTRING does that is asked
// for fewer than no characters: whoever may subscribe writes expressions, and must not
// end the process or hold up the events of others by one.
func truth(expression cesql.Expression, e cloudevents.Event) (holds bool) {
	defer func() {
		if recover() != nil {
			holds = false
		}
	}()
	value, err := expression.Evaluate(e)
	if err != nil {
		return false
	}
	result, err := utils.Cast(value, cesql.BooleanType)
	return err == nil && result == true
}

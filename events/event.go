package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"strings"
	"time"
	"unicode/utf8"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
)

// ContentTypeJSON is the data content type of every event this project makes.
const ContentTypeJSON = "application/json"

// Event is a CloudEvents 1.0 event with the extensions the platform reads as
// plain fields. It is a value: copying it is cheap, and nothing in it is shared
// but the bytes of Data and the Extensions map, which receivers must not change.
//
// The CloudEvents SDK's own event type costs about 1.3 µs and a dozen
// allocations to build, which every hop would pay; [Event.CloudEvent] and
// [FromCloudEvent] convert where an SDK event is wanted (ADR 0003).
type Event struct {
	ID              string    // unique within Source
	Source          string    // URI-reference of the sender, such as /services/inventory
	Type            string    // such as shop.inventory.reserve.v1
	Subject         string    // what the event is about, within Source; optional
	Time            time.Time // when it happened; zero means unstated
	DataContentType string    // media type of Data; empty when there is no data
	DataSchema      string    // URI of the schema of Data; optional
	Data            []byte    // the payload; nil when there is none

	CorrelationID string // extension correlationid: shared by all events of one saga
	CausationID   string // extension causationid: id of the event that caused this one
	PartitionKey  string // extension partitionkey: events of one key keep their order
	TraceParent   string // extension traceparent: W3C trace context
	TraceState    string // extension tracestate: W3C trace context

	ReplyTo string // extension replyto: topic that wants the reply to this command
	Undoes  string // extension undoes: id of the command that this compensation undoes

	// Extensions holds every other extension attribute by its lower-case name.
	Extensions map[string]string
}

// UndoesTime is the extension attribute of a compensation that tells a moment before
// which the command that it undoes cannot have been sent: when its saga began. A
// participant tells by it whether it could have forgotten that command.
const UndoesTime = "undoestime"

// Key returns what orders this event: its partition key, or its id when it has none.
func (e *Event) Key() string {
	if e.PartitionKey != "" {
		return e.PartitionKey
	}
	return e.ID
}

// Extension returns the extension attribute of that lower-case name, whether it
// is one of the plain fields or kept in Extensions; empty when absent.
func (e *Event) Extension(name string) string {
	if field := e.extensionField(name); field != nil {
		return *field
	}
	return e.Extensions[name]
}

// SetExtension sets the extension attribute of that lower-case name. It copies
// the Extensions map, so an event copied before keeps what it had.
func (e *Event) SetExtension(name, value string) {
	if field := e.extensionField(name); field != nil {
		*field = value
		return
	}
	fresh := make(map[string]string, len(e.Extensions)+1)
	maps.Copy(fresh, e.Extensions)
	fresh[name] = value
	e.Extensions = fresh
}

// field returns the field of the attribute of that name; nil when it has none that is
// text.
func (e *Event) field(name string) *string {
	switch name {
	case "id":
		return &e.ID
	case "source":
		return &e.Source
	case "type":
		return &e.Type
	case "subject":
		return &e.Subject
	case "dataschema":
		return &e.DataSchema
	case "datacontenttype":
		return &e.DataContentType
	}
	return e.extensionField(name)
}

// extensionField returns the plain field of that extension; nil when it has none.
func (e *Event) extensionField(name string) *string {
	switch name {
	case "correlationid":
		return &e.CorrelationID
	case "causationid":
		return &e.CausationID
	case "partitionkey":
		return &e.PartitionKey
	case "traceparent":
		return &e.TraceParent
	case "tracestate":
		return &e.TraceState
	case "replyto":
		return &e.ReplyTo
	case "undoes":
		return &e.Undoes
	}
	return nil
}

// extensionNames lists the extensions that are plain fields, in wire order.
var extensionNames = [...]string{
	"correlationid", "causationid", "partitionkey", "traceparent", "tracestate", "replyto", "undoes",
}

// Limits on attributes. CloudEvents states none; without them an id of 100 kB
// reaches every index and log line behind the edge.
const (
	IDBytesMax        = 128
	TypeBytesMax      = 128
	AttributeBytesMax = 1024
	ExtensionsMax     = 16
	// AttributesBytesMax bounds all names and values together, so that they fit a
	// broker's header limit even when every byte is percent-encoded.
	AttributesBytesMax = 16 << 10
)

// ErrInvalid is wrapped by every error about an event that breaks CloudEvents
// 1.0 or the limits of this package.
var ErrInvalid = errors.New("invalid event")

// Validate reports every rule that e breaks, joined, each wrapping [ErrInvalid]:
// those of CloudEvents 1.0 on required attributes, names and characters, and the
// limits of this package. It does not parse URIs.
func (e *Event) Validate() error {
	var v violations
	v.attribute("id", e.ID, IDBytesMax, true)
	v.attribute("source", e.Source, AttributeBytesMax, true)
	v.attribute("type", e.Type, TypeBytesMax, true)
	v.attribute("subject", e.Subject, AttributeBytesMax, false)
	v.attribute("datacontenttype", e.DataContentType, AttributeBytesMax, false)
	v.attribute("dataschema", e.DataSchema, AttributeBytesMax, false)
	if year := e.Time.UTC().Year(); year < 0 || year > 9999 {
		v.fail("attribute %q: RFC 3339 has no year %d", "time", year)
	}
	for _, name := range extensionNames {
		v.attribute(name, e.Extension(name), AttributeBytesMax, false)
	}
	if len(e.Extensions) > ExtensionsMax {
		v.fail("%d extension attributes, at most %d are allowed", len(e.Extensions), ExtensionsMax)
	}
	for name, value := range e.Extensions {
		switch {
		case !validAttributeName(name):
			v.fail("extension name %q may hold only a-z and 0-9, at most 20 of them", name)
		case reservedName(name):
			v.fail("extension name %q belongs to an attribute with a field of its own", name)
		default:
			v.attribute(name, value, AttributeBytesMax, false)
		}
	}
	if v.bytes > AttributesBytesMax {
		v.fail("attributes have %d bytes, at most %d are allowed", v.bytes, AttributesBytesMax)
	}
	return errors.Join(v.errs...)
}

// violations collects what is wrong with an event and how large its attributes are.
type violations struct {
	errs  []error
	bytes int
}

func (v *violations) fail(format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...))
}

func (v *violations) attribute(name, value string, bytesMax int, required bool) {
	switch {
	case value == "" && required:
		v.fail("attribute %q is required", name)
	case value == "":
		return
	case len(value) > bytesMax:
		v.fail("attribute %q has %d bytes, at most %d are allowed", name, len(value), bytesMax)
	case !validText(value):
		v.fail("attribute %q holds a control character or is not UTF-8", name)
	}
	v.bytes += len(name) + len(value)
}

// validText follows the String type of CloudEvents 1.0 §3.2: no control
// characters, no noncharacters, no surrogates (which UTF-8 cannot hold).
func validText(value string) bool {
	for i := printablePrefix(value); i < len(value); {
		if c := value[i]; c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f {
				return false
			}
			i++
			continue
		}
		r, width := utf8.DecodeRuneInString(value[i:])
		switch {
		case r == utf8.RuneError && width == 1, // not UTF-8
			r <= 0x9f, // C1 controls
			r >= 0xfdd0 && r <= 0xfdef, r&0xfffe == 0xfffe:
			return false
		}
		i += width
	}
	return true
}

// validAttributeName follows CloudEvents 1.0 §3.1: lower-case letters and
// digits, "SHOULD NOT exceed 20 characters", which this package makes a must.
func validAttributeName(name string) bool {
	if name == "" || len(name) > 20 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// reservedName reports a name that must not be in the Extensions map: it would
// come twice on the wire, or be taken for another part of the event.
func reservedName(name string) bool {
	switch name {
	case "specversion", "time", "data":
		return true
	}
	return new(Event).field(name) != nil
}

// CloudEvent returns e as an event of the CloudEvents SDK. It fails when an
// attribute is not one the SDK accepts.
func (e *Event) CloudEvent() (cloudevents.Event, error) {
	ce := cloudevents.New(cloudevents.CloudEventsVersionV1)
	ce.SetID(e.ID)
	ce.SetSource(e.Source)
	ce.SetType(e.Type)
	if e.Subject != "" {
		ce.SetSubject(e.Subject)
	}
	if !e.Time.IsZero() {
		ce.SetTime(e.Time)
	}
	if e.DataSchema != "" {
		ce.SetDataSchema(e.DataSchema)
	}
	for _, name := range extensionNames {
		if value := e.Extension(name); value != "" {
			ce.SetExtension(name, value)
		}
	}
	for name, value := range e.Extensions {
		ce.SetExtension(name, value)
	}
	if e.DataContentType != "" {
		ce.SetDataContentType(e.DataContentType)
	}
	if len(e.Data) > 0 {
		// The SDK's SetData would send any []byte as base64 in structured mode.
		ce.DataEncoded, ce.DataBase64 = e.Data, !isJSON(e.DataContentType, e.Data)
	}
	if err := ce.Validate(); err != nil {
		return ce, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return ce, nil
}

func isJSON(contentType string, data []byte) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == ContentTypeJSON || strings.HasSuffix(media, "+json")) && json.Valid(data)
}

// FromCloudEvent returns the SDK's event as an Event, unchecked: see
// [Event.Validate]. Extension values keep their canonical CloudEvents string form.
func FromCloudEvent(ce cloudevents.Event) Event {
	e := Event{
		ID: ce.ID(), Source: ce.Source(), Type: ce.Type(), Subject: ce.Subject(), Time: ce.Time(),
		DataContentType: ce.DataContentType(), DataSchema: ce.DataSchema(), Data: ce.Data(),
	}
	for name, value := range ce.Extensions() {
		text, err := types.Format(value)
		if err != nil {
			text = fmt.Sprint(value) // not a CloudEvents type: the SDK has let it in
		}
		e.SetExtension(name, text)
	}
	return e
}

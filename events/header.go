package events

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Prefixes of attribute names in the binary modes of CloudEvents 1.0.
const (
	headerPrefixDash       = "ce-" // HTTP and NATS
	headerPrefixUnderscore = "ce_" // Kafka
)

// Binding is one of the CloudEvents protocol bindings that carry attributes as
// headers beside the data (binary content mode).
type Binding struct {
	prefix          string
	contentType     string // header that carries datacontenttype; empty: it is an attribute like any other
	percentEncoding bool
	anyCase         bool     // whether header names are compared without regard to case
	headers         []string // of the common attributes, in their order
}

// The bindings of CloudEvents 1.0.
var (
	// NATS is the NATS binding §3.1: ce- headers, values percent-encoded as in
	// HTTP, because a NATS header value cannot hold line breaks either.
	NATS = Binding{prefix: headerPrefixDash, percentEncoding: true, anyCase: true, headers: headerNames(headerPrefixDash)}
	// HTTP is the HTTP binding §3.1: ce- headers with percent-encoded values
	// (§3.1.3.2); the data content type is the Content-Type header.
	HTTP = Binding{
		prefix: headerPrefixDash, contentType: "content-type", percentEncoding: true, anyCase: true,
		headers: headerNames(headerPrefixDash),
	}
	// Kafka is the Kafka binding §3.2: ce_ headers in UTF-8 as they are.
	Kafka = Binding{prefix: headerPrefixUnderscore, contentType: "content-type", headers: headerNames(headerPrefixUnderscore)}
)

// commonAttributes are those that have a field of their own; the extensions come last.
var commonAttributes = append([]string{
	"specversion", "id", "source", "type", "subject", "time", "dataschema", "datacontenttype",
}, extensionNames[:]...)

// Where the common attributes are.
const (
	atSpecVersion = iota
	atID
	atSource
	atType
	atSubject
	atTime
	atDataSchema
	atDataContentType
	atExtensions
)

// headerNames spares every event the concatenation of names that never change.
func headerNames(prefix string) []string {
	names := make([]string, len(commonAttributes))
	for i, attribute := range commonAttributes {
		names[i] = prefix + attribute
	}
	return names
}

// Header returns the name of the header that carries an attribute.
func (b Binding) Header(attribute string) string {
	if attribute == "datacontenttype" && b.contentType != "" {
		return b.contentType
	}
	return b.prefix + attribute
}

// Encode calls set once per header of e, in an order that depends on nothing but
// the names. Data is not a header: the caller puts it in the body. The headers
// are safe for the wire when e passes [Event.Validate].
func (b Binding) Encode(e *Event, set func(name, value string)) {
	put := func(header, value string) {
		if value == "" {
			return
		}
		if b.percentEncoding {
			value = PercentEncode(value)
		}
		set(header, value)
	}
	set(b.headers[atSpecVersion], "1.0")
	put(b.headers[atID], e.ID)
	put(b.headers[atSource], e.Source)
	put(b.headers[atType], e.Type)
	put(b.headers[atSubject], e.Subject)
	if !e.Time.IsZero() {
		set(b.headers[atTime], e.Time.UTC().Format(time.RFC3339Nano))
	}
	put(b.headers[atDataSchema], e.DataSchema)
	switch {
	case b.contentType == "":
		put(b.headers[atDataContentType], e.DataContentType)
	case e.DataContentType != "":
		set(b.contentType, e.DataContentType)
	}
	for i, name := range extensionNames {
		put(b.headers[atExtensions+i], e.Extension(name))
	}
	switch len(e.Extensions) {
	case 0:
	case 1:
		for name, value := range e.Extensions {
			put(b.prefix+name, value)
		}
	default:
		for _, name := range slices.Sorted(maps.Keys(e.Extensions)) {
			put(b.prefix+name, e.Extensions[name])
		}
	}
}

// Decoder collects headers into an event. Get one from [Binding.Decoder], call
// Header for each header and then Event.
type Decoder struct {
	binding     Binding
	event       Event
	specVersion string
	err         error
}

// Decoder returns a decoder for headers of this binding.
func (b Binding) Decoder() Decoder { return Decoder{binding: b} }

// Header takes one header in. Headers that belong to no attribute are passed
// over. An attribute that comes twice is an error, told by Event.
func (d *Decoder) Header(name, value string) {
	if d.isContentType(name) {
		d.once(&d.event.DataContentType, "datacontenttype", value)
		return
	}
	attribute, ok := d.attribute(name)
	if !ok {
		return
	}
	if d.binding.percentEncoding {
		decoded, err := PercentDecode(value)
		if err != nil {
			d.fail("attribute %q: %w", attribute, err)
			return
		}
		value = decoded
	}
	switch attribute {
	case "specversion":
		d.once(&d.specVersion, attribute, value)
	case "time":
		at, err := time.Parse(time.RFC3339Nano, value)
		if err != nil || !d.event.Time.IsZero() {
			d.fail("attribute %q: want one RFC 3339 time, got %q", attribute, value)
			return
		}
		d.event.Time = at
	default:
		if attribute == "datacontenttype" && d.binding.contentType != "" {
			d.fail("attribute %q belongs into the header %q", attribute, d.binding.contentType)
			return
		}
		d.text(attribute, value)
	}
}

func (d *Decoder) isContentType(name string) bool {
	want := d.binding.contentType
	return want != "" && (name == want || d.binding.anyCase && strings.EqualFold(name, want))
}

// attribute returns the attribute that a header of that name carries.
func (d *Decoder) attribute(name string) (attribute string, ok bool) {
	prefix := d.binding.prefix
	if !d.binding.anyCase {
		return strings.CutPrefix(name, prefix)
	}
	if len(name) < len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
		return "", false
	}
	return strings.ToLower(name[len(prefix):]), true
}

func (d *Decoder) text(name, value string) {
	if field := d.event.field(name); field != nil {
		d.once(field, name, value)
		return
	}
	if !validAttributeName(name) {
		d.fail("extension name %q may hold only a-z and 0-9, at most 20 of them", name)
		return
	}
	if _, twice := d.event.Extensions[name]; twice {
		d.fail("attribute %q comes twice", name)
		return
	}
	if d.event.Extensions == nil {
		d.event.Extensions = make(map[string]string)
	}
	d.event.Extensions[name] = value
}

func (d *Decoder) once(field *string, attribute, value string) {
	if *field != "" {
		d.fail("attribute %q comes twice", attribute)
		return
	}
	*field = value
}

func (d *Decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
	}
}

// Event returns the event with data as its payload. It fails, wrapping
// [ErrInvalid], on the first header that could not be read, on a spec version
// other than 1.0, and on an event that [Event.Validate] refuses.
func (d *Decoder) Event(data []byte) (Event, error) {
	if d.err != nil {
		return Event{}, d.err
	}
	if d.specVersion != "1.0" {
		return Event{}, fmt.Errorf("%w: specversion is %q, want 1.0", ErrInvalid, d.specVersion)
	}
	if len(data) > 0 {
		d.event.Data = data
	}
	if err := d.event.Validate(); err != nil {
		return Event{}, err
	}
	return d.event, nil
}

const upperHex = "0123456789ABCDEF"

// PercentEncode encodes an attribute value for a header as the HTTP binding
// §3.1.3.2 wants: the space, the double quote, the percent sign and everything
// outside printable ASCII become %XX of their UTF-8 bytes.
func PercentEncode(value string) string {
	plain := plainPrefix(value)
	for plain < len(value) && !mustEncode(value[plain]) {
		plain++
	}
	if plain == len(value) {
		return value
	}
	var b strings.Builder
	b.Grow(len(value) + 16)
	b.WriteString(value[:plain])
	for i := plain; i < len(value); i++ {
		if c := value[i]; mustEncode(c) {
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&0x0f])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func mustEncode(c byte) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '%' }

var errNotUTF8 = errors.New("value is not UTF-8")

// PercentDecode reads a header value written by any conforming sender: a quoted
// string (RFC 9110 §5.6.4) is unquoted first, then %XX is decoded once, and the
// result must be UTF-8.
func PercentDecode(value string) (string, error) {
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = unescape(value[1 : len(value)-1])
	}
	if strings.IndexByte(value, '%') < 0 {
		if !utf8.ValidString(value) {
			return "", errNotUTF8
		}
		return value, nil
	}
	out := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		c := value[i]
		if c != '%' {
			out = append(out, c)
			continue
		}
		if i+2 >= len(value) || unhex(value[i+1]) < 0 || unhex(value[i+2]) < 0 {
			return "", fmt.Errorf("bad percent-encoding at byte %d", i)
		}
		out = append(out, byte(unhex(value[i+1])<<4|unhex(value[i+2])))
		i += 2
	}
	if !utf8.Valid(out) {
		return "", errNotUTF8
	}
	return string(out), nil
}

// unescape reads the inside of a quoted string: a backslash stands for the byte
// after it.
func unescape(value string) string {
	if strings.IndexByte(value, '\\') < 0 {
		return value
	}
	out := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		if value[i] == '\\' && i+1 < len(value) {
			i++
		}
		out = append(out, value[i])
	}
	return string(out)
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

package gateway

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Media types of the CloudEvents HTTP binding and its JSON formats.
const (
	mediaTypeEvent      = "application/cloudevents+json"
	mediaTypeEventBatch = "application/cloudevents-batch+json"
	mediaTypeEventAny   = "application/cloudevents" // what begins so is a CloudEvent
	acceptEvents        = mediaTypeEvent + ", " + mediaTypeEventBatch + ", " + contentTypeJSON
	specVersionHeader   = "Ce-Specversion"
)

// incoming is one event of a request: what was read of it, and what is wrong with it.
type incoming struct {
	event    events.Event
	document any    // its data, decoded
	at       string // JSON Pointer of the event in the body; empty for the body itself
	dataAt   string // likewise of its data
	faults   []Violation
}

func (in *incoming) fail(at, format string, args ...any) {
	in.faults = append(in.faults, Violation{Pointer: at, Detail: fmt.Sprintf(format, args...)})
}

// foreign are the extension attributes that only the edge and what is behind it set:
// they say who sent an event, what it belongs to and how it is delivered. Those of a
// client are dropped.
var foreign = []string{
	"correlationid", "causationid", "traceparent", "tracestate", "replyto", "undoes",
	tenantExtension, clientExtension, "authtype", "authid", "authclaims",
	fingerprintExtension, "schedule", "scheduledtime", "watermillmetadata",
}

// readEvents reads the CloudEvents of a request: one in binary or structured content
// mode, or a batch. The problem is why it is none of these. Whether an event may pass
// is not yet known: see the faults of each.
func readEvents(header http.Header, body []byte) ([]incoming, *Problem) {
	mediaType, problem := mediaTypeOf(header)
	switch {
	case problem != nil:
		return nil, problem
	case mediaType == mediaTypeEvent:
		document, raw, problem := decodeEnvelope[map[string]json.RawMessage](body)
		if problem != nil {
			return nil, problem
		}
		return []incoming{readStructured("", document, raw)}, nil
	case mediaType == mediaTypeEventBatch:
		document, raw, problem := decodeEnvelope[[]map[string]json.RawMessage](body)
		if problem != nil {
			return nil, problem
		}
		if len(raw) > broker.BatchMessagesMax {
			return nil, newProblem(codeBodyTooLarge, fmt.Sprintf("Nothing was published: a batch may have %d events, and this one has %d.", broker.BatchMessagesMax, len(raw)))
		}
		items, _ := document.([]any)
		all := make([]incoming, len(raw))
		for i := range raw {
			all[i] = readStructured("/"+strconv.Itoa(i), items[i], raw[i])
		}
		return all, nil
	case strings.HasPrefix(mediaType, mediaTypeEventAny):
		return nil, newProblem(codeUnsupportedMediaType, "CloudEvents come in JSON here: "+mediaTypeEvent+" or "+mediaTypeEventBatch+".")
	case len(header[specVersionHeader]) == 0:
		return nil, newProblem(codeUnsupportedMediaType, "Send a CloudEvent: the attributes as Ce- headers, "+mediaTypeEvent+" or "+mediaTypeEventBatch+".")
	}
	return []incoming{readBinary(header, body)}, nil
}

// mediaTypeOf returns the Content-Type in lower case and without its parameters.
func mediaTypeOf(header http.Header) (string, *Problem) {
	values := header["Content-Type"]
	if len(values) != 1 {
		return "", newProblem(codeUnsupportedMediaType, "Send one Content-Type.")
	}
	mediaType, params, err := mime.ParseMediaType(values[0])
	if err != nil {
		return "", newProblem(codeUnsupportedMediaType, "The Content-Type cannot be read.")
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") {
		return "", newProblem(codeUnsupportedMediaType, "The body must be in UTF-8.")
	}
	return mediaType, nil
}

// decodeEnvelope decodes a body strictly, and once more such that the bytes of data
// are kept as they were sent.
func decodeEnvelope[T any](body []byte) (document any, raw T, problem *Problem) {
	document, fault := decodeStrict(body)
	if fault != nil {
		problem = fault.problem()
		problem.Detail = "Nothing was published: " + fault.Error() + "."
		return nil, raw, problem
	}
	if err := json.Unmarshal(body, &raw); err != nil || document == nil {
		return nil, raw, newProblem(codeInvalidEvent, "Nothing was published: the JSON format wants an object for an event, and an array of objects for a batch.")
	}
	return document, raw, nil
}

// readBinary reads an event whose attributes are headers and whose data is the body.
func readBinary(header http.Header, body []byte) incoming {
	in := incoming{}
	decoder := events.HTTP.Decoder()
	for _, name := range sortedKeys(header) {
		if attribute, ok := strings.CutPrefix(strings.ToLower(name), "ce-"); ok && slices.Contains(foreign, attribute) {
			continue
		}
		for _, value := range header[name] {
			decoder.Header(name, value)
		}
	}
	in.finish(&decoder, body)
	if !isJSON(in.event.DataContentType) {
		in.fail("", "datacontenttype (the Content-Type) must be application/json or end with +json")
		return in
	}
	document, fault := decodeStrict(body)
	if fault != nil {
		in.fail(fault.pointer, "%s", fault.Error())
	}
	in.document = document
	return in
}

// readStructured reads an event that is a JSON object. It is decoded in document, and
// raw has the bytes of its members.
func readStructured(at string, document any, raw map[string]json.RawMessage) incoming {
	in := incoming{at: at, dataAt: at + "/data"}
	if raw == nil {
		in.fail(at, "must be an object")
		return in
	}
	members, _ := document.(map[string]any)
	// The headers of Kafka are attributes as they are, without percent-encoding.
	decoder := events.Kafka.Decoder()
	for _, name := range sortedKeys(members) {
		value := members[name]
		if name == "data" || name == "data_base64" || value == nil || slices.Contains(foreign, name) {
			continue
		}
		text, ok := attributeText(name, value)
		if !ok {
			in.fail(at+pointer([]string{name}), "must be a text, or for an extension true, false or an integer of 32 bits")
			continue
		}
		decoder.Header(events.Kafka.Header(name), text)
	}
	data := in.data(members, raw)
	contentType, given := members["datacontenttype"].(string)
	if given && !isJSON(contentType) {
		in.fail(at+"/datacontenttype", "must be application/json or end with +json")
	}
	in.finish(&decoder, data)
	if in.event.DataContentType == "" {
		in.event.DataContentType = contentTypeJSON // what the JSON format §3.1 implies
	}
	return in
}

// data returns the payload of an event in structured mode, and keeps it decoded.
func (in *incoming) data(members map[string]any, raw map[string]json.RawMessage) []byte {
	encoded := members["data_base64"]
	if encoded == nil {
		in.document = members["data"]
		if in.document == nil {
			return nil
		}
		return raw["data"]
	}
	in.dataAt = in.at + "/data_base64"
	if members["data"] != nil {
		in.fail(in.dataAt, "data and data_base64 exclude each other")
		return nil
	}
	text, _ := encoded.(string)
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || text == "" {
		in.fail(in.dataAt, "must be a text in base64")
		return nil
	}
	document, fault := decodeStrict(data)
	if fault != nil {
		in.fail(in.dataAt, "%s", fault.Error())
	}
	in.document = document
	return data
}

// attributeText returns the canonical text of an attribute's value in JSON. Only
// extensions may be anything but texts (CloudEvents JSON format §2.2).
func attributeText(name string, value any) (string, bool) {
	const integerBits = 32
	switch v := value.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), !slices.Contains(coreAttributes, name)
	case int64:
		return strconv.FormatInt(v, 10), v == v<<integerBits>>integerBits && !slices.Contains(coreAttributes, name)
	}
	return "", false
}

var coreAttributes = []string{"specversion", "id", "source", "type", "subject", "time", "dataschema", "datacontenttype"}

// finish takes what the decoder has collected, and finds what is wrong with it beyond
// its data.
func (in *incoming) finish(decoder *events.Decoder, data []byte) {
	e, err := decoder.Event(data)
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") { // one for each fault; values in it are quoted
			in.fail(in.at, "%s", strings.TrimPrefix(line, events.ErrInvalid.Error()+": "))
		}
		return
	}
	in.event = e
	if _, err := url.Parse(e.Source); err != nil {
		in.fail(in.at, "attribute %q must be a URI reference", "source")
	}
	if e.DataSchema != "" {
		if u, err := url.Parse(e.DataSchema); err != nil || !u.IsAbs() {
			in.fail(in.at, "attribute %q must be an absolute URI", "dataschema")
		}
	}
	if expires := e.Extension(expiryExtension); expires != "" {
		at, err := time.Parse(time.RFC3339Nano, expires)
		switch {
		case err != nil:
			in.fail(in.at, "attribute %q must be an RFC 3339 time", expiryExtension)
		case !at.After(time.Now()):
			in.fail(in.at, "attribute %q has passed", expiryExtension)
		}
	}
}

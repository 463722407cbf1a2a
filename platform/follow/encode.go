package follow

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"mime"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/countermand/countermand/events"
)

// Encode returns the event in the JSON format of CloudEvents 1.0, in one line. Data
// whose content type is JSON stands in it as it is, other data in base64.
func Encode(e *events.Event) []byte {
	b := make([]byte, 0, 512+len(e.Data))
	b = append(b, `{"specversion":"1.0"`...)
	put := func(name, value string) {
		if value == "" {
			return
		}
		b = append(b, ',', '"')
		b = append(b, name...)
		b = append(b, '"', ':')
		b, _ = jsontext.AppendQuote(b, value) // attributes of an event are UTF-8
	}
	put("id", e.ID)
	put("source", e.Source)
	put("type", e.Type)
	put("subject", e.Subject)
	if !e.Time.IsZero() {
		put("time", e.Time.UTC().Format(time.RFC3339Nano))
	}
	put("datacontenttype", e.DataContentType)
	put("dataschema", e.DataSchema)
	for _, name := range []string{"correlationid", "causationid", "partitionkey", "traceparent", "tracestate", "replyto", "undoes"} {
		put(name, e.Extension(name))
	}
	for _, name := range slices.Sorted(maps.Keys(e.Extensions)) {
		put(name, e.Extensions[name])
	}
	if len(e.Data) > 0 {
		b = appendData(b, e)
	}
	return append(b, '}')
}

func appendData(b []byte, e *events.Event) []byte {
	if isJSON(e.DataContentType) {
		var line bytes.Buffer
		if json.Compact(&line, e.Data) == nil {
			return append(append(b, `,"data":`...), line.Bytes()...)
		}
	}
	b = append(b, `,"data_base64":"`...)
	b = base64.StdEncoding.AppendEncode(b, e.Data)
	return append(b, '"')
}

func isJSON(contentType string) bool {
	if contentType == events.ContentTypeJSON || contentType == "" { // the JSON format implies it
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == events.ContentTypeJSON || strings.HasSuffix(media, "+json"))
}

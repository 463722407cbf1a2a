package gateway

import (
	"maps"
	"net/http"
	"slices"

	"github.com/countermand/countermand/platform/filter"
)

// describe is the operation of the route in OpenAPI. What comes over a WebSocket is
// beyond what OpenAPI can say, beside that there is one.
func (s *streamRoute) describe(d *description) object {
	var forms []any
	for _, c := range s.shown {
		forms = append(forms, object{
			"type": "object", "required": []any{"specversion", "id", "source", "type"},
			"properties": object{
				"specversion": object{"const": "1.0"}, "id": object{"type": "string"}, "source": object{"type": "string", "format": "uri-reference"},
				"type": object{"const": c.Type}, "subject": object{"type": "string"}, "time": object{"type": "string", "format": "date-time"}, "data": d.schema(c),
			},
		})
	}
	text := object{"type": "string"}
	parameters := []any{
		queryParameter("start", "Where to begin: `now`, `earliest` or a time.", object{"type": "string", "default": "now"}),
		queryParameter("after", "Go on after this position.", text),
		headerParameter("Last-Event-ID", "Likewise; it overrides the query.", false, text),
		queryParameter(filter.ParameterTypes, "Only events of these types, separated by commas.", text),
		queryParameter(filter.ParameterFilter, "Only events for which this expression in CloudEvents SQL is true.", object{"type": "string", "maxLength": filter.SQLBytesMax}),
		queryParameter(filter.ParameterAll, "Only events that pass these filters of the CloudEvents Subscriptions API, a JSON array.", object{"type": "string", "maxLength": filter.BytesMax}),
	}
	content := object{}
	description := "Sends events as they come"
	if slices.Contains(s.transports, transportSSE) {
		content[contentTypeStream] = object{"schema": text}
		description += ", as server-sent events whose data is a CloudEvent and whose id is a position"
	}
	headers := object{}
	responses := object{}
	if slices.Contains(s.transports, transportPoll) {
		content[mediaTypeEventBatch] = object{"schema": object{"type": "array", "items": object{"oneOf": forms}}}
		description += ", or by long poll"
		parameters = append(parameters,
			headerParameter("Prefer", "`wait=N` holds a long poll until there is an event.", false, text),
			queryParameter("limit", "At most so many events of a long poll.", object{"type": "integer", "minimum": 1, "maximum": pollEventsMax, "default": pollEventsDefault}))
		headers = object{"Last-Event-ID": textHeader("The position after a long poll."), "Link": textHeader("The next long poll.")}
		responses["204"] = object{"description": "No event has come to a long poll.", "headers": maps.Clone(headers)}
	}
	if slices.Contains(s.transports, transportSocket) {
		description += ". A WebSocket needs the subprotocol `" + socketProtocol + "`"
		responses["101"] = object{"description": "The WebSocket is open."}
		responses["426"] = object{"description": "It is sent over WebSocket only.", "content": problemContent(codesOf(http.StatusUpgradeRequired)...)}
	}
	if len(content) > 0 {
		responses["200"] = object{"description": "Events.", "headers": headers, "content": content}
	}
	maps.Copy(responses, object{
		"400": responseOf("BadRequest"), "406": responseOf("NotAcceptable"), "503": responseOf("Unavailable"),
		"410": object{"description": "Events after the position may have been deleted.", "content": problemContent(codePositionGone)},
		"429": object{"description": "Too many streams are open.", "content": problemContent(codesOf(http.StatusTooManyRequests)...)},
	})
	return object{"tag": "events", "description": description + ".", "parameters": parameters, "responses": responses}
}

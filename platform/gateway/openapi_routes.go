package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

func (c commandRoute) describe(d *description) object {
	a := &c.acceptance
	operation := d.command(a, object{"required": true, "content": jsonContent(d.schema(a.contract))})
	operation["description"] = fmt.Sprintf("Sends the command `%s`. The answer is `202` at once or, with `Prefer: wait=N` of at most %s, what became of it.", a.contract.Type, a.waitMax)
	return operation
}

// command returns the operation of what takes a command with that body.
func (d *description) command(a *acceptance, body object) object {
	responses := object{
		"202": accepted("The command is stored.", object{
			"Location": textHeader("The operation."), "Link": textHeader("The operation and its progress."),
			"Retry-After":          object{"description": "Seconds.", "schema": object{"type": "integer"}},
			"Preference-Applied":   textHeader("What was honoured of Prefer."),
			"Idempotency-Replayed": textHeader("`true` for a request that came before."),
			durabilityHeader:       object{"description": "What the command survives, where the gateway tells: a crash and a power cut (`fsync`), a crash and the loss of a server (`replicated`), or a crash only (`memory`).", "schema": object{"enum": []any{"fsync", "replicated", "memory"}}},
		}),
		"400": responseOf("BadRequest"), "409": responseOf("Conflict"), "413": responseOf("TooLarge"), "415": responseOf("UnsupportedType"),
		"422": responseOf("Unprocessable"), "503": responseOf("Unavailable"),
	}
	completed := object{"description": "The operation has completed within the wait."}
	if a.outcome.body == nil {
		completed["content"] = jsonContent(reference("Operation"))
	} else {
		completed["content"] = jsonContent(object{})
	}
	if a.outcome.location != nil {
		completed["headers"] = object{"Location": textHeader("What the operation made.")}
	}
	responses[statusText(a.outcome.completedStatus)] = completed
	codes := make(map[int][]string) // by status
	for code, status := range a.outcome.rejected {
		codes[status] = append(codes[status], code)
	}
	for status, all := range codes {
		slices.Sort(all)
		if _, shared := responses[statusText(status)]; shared { // which has other codes as well
			continue
		}
		responses[statusText(status)] = object{
			"description": "Undone within the wait: " + strings.Join(all, ", ") + ".", "content": problemContent(all...),
		}
	}
	return object{
		"tag": "commands", "requestBody": body, "responses": responses,
		"parameters": []any{
			headerParameter("Idempotency-Key", "Makes a repeat safe: the same key and body give the same operation.", a.keyRequired, object{"type": "string"}),
			headerParameter("Prefer", "`wait=N` in seconds, `respond-async`, `handling=strict` (RFC 7240).", false, object{"type": "string"}),
			headerParameter(expiryHeader, "RFC 3339 time after which the command is of no use.", false, object{"type": "string", "format": "date-time"}),
		},
	}
}

func accepted(text string, headers object) object {
	return object{"description": text, "headers": headers, "content": jsonContent(reference("Accepted"))}
}

func (s signalRoute) describe(d *description) object {
	return object{
		"tag": "signals", "description": "Tells the operation `" + s.contract.Type + "`, which it waits for.",
		"requestBody": object{"required": true, "content": jsonContent(d.schema(s.contract))},
		"parameters":  []any{headerParameter("Idempotency-Key", "Makes a repeat safe.", false, object{"type": "string"})},
		"responses": object{
			"202": accepted("The signal is stored.", object{"Location": textHeader("The operation.")}),
			"404": responseOf("NotFound"), "409": responseOf("Conflict"), "410": responseOf("Gone"), "413": responseOf("TooLarge"),
			"415": responseOf("UnsupportedType"), "422": responseOf("Unprocessable"), "503": responseOf("Unavailable"),
		},
	}
}

func (e *eventsRoute) describe(d *description) object {
	var forms, payloads []any
	for _, name := range sortedKeys(e.types) {
		payload := d.schema(e.types[name])
		payloads = append(payloads, payload)
		forms = append(forms, object{
			"type": "object", "required": []any{"specversion", "id", "source", "type"},
			"properties": object{
				"specversion": object{"const": "1.0"}, "id": object{"type": "string", "minLength": 1}, "source": object{"type": "string", "format": "uri-reference"},
				"type": object{"const": name}, "subject": object{"type": "string"}, "time": object{"type": "string", "format": "date-time"}, "data": payload,
			},
		})
	}
	one := object{"oneOf": forms}
	return object{
		"tag": "events", "description": "Takes CloudEvents 1.0 in binary mode, with the attributes in `Ce-` headers, in structured mode or in batches.",
		"requestBody": object{"required": true, "content": object{
			mediaTypeEvent: object{"schema": one}, mediaTypeEventBatch: object{"schema": object{"type": "array", "items": one}},
			contentTypeJSON: object{"schema": object{"oneOf": payloads}},
		}},
		"responses": object{
			"202": object{"description": "All events are stored.", "content": jsonContent(reference("AcceptedEvents"))},
			"207": object{"description": "Some are.", "content": jsonContent(reference("AcceptedEvents"))},
			"400": responseOf("BadRequest"), "413": responseOf("TooLarge"), "415": responseOf("UnsupportedType"),
			"422": responseOf("Unprocessable"), "503": responseOf("Unavailable"),
		},
	}
}

func (p proxyRoute) describe(*description) object {
	return object{
		"tag": "services", "description": "Answered by the service `" + p.upstream + "`.",
		"responses": object{
			"default": object{"description": "What the service answers."},
			"413":     responseOf("TooLarge"), "502": responseOf("BadGateway"), "504": responseOf("GatewayTimeout"),
		},
	}
}

// builtIn returns the operation of a route that is always there; nil for one that is
// none of an API.
func (d *description) builtIn(rt RouteInfo) object {
	var operation object
	tag, name := "operations", rt.ID
	wait := headerParameter("Prefer", "`wait=N` holds the answer until there is news.", false, object{"type": "string"})
	found := object{"400": responseOf("BadRequest"), "404": responseOf("NotFound"), "410": responseOf("Gone"), "503": responseOf("Unavailable")}
	with := func(more object) object {
		all := maps.Clone(found)
		maps.Copy(all, more)
		return all
	}
	switch {
	case rt.ID == routeCommands:
		tag = "commands"
		operation = d.command(&acceptance{outcome: genericOutcome}, object{"required": true, "content": jsonContent(object{})})
		delete(operation, "tag")
		operation["summary"] = "Send any command that starts an operation"
		operation["responses"].(object)["404"] = responseOf("NotFound")
	case rt.ID == routeOperations && rt.Method == http.MethodGet:
		operation = object{
			"summary":    "What became of a command",
			"parameters": []any{wait, headerParameter("If-None-Match", "The ETag of what you have: 304 when nothing is new.", false, object{"type": "string"})},
			"responses": with(object{
				"200": object{"description": "The operation.", "headers": object{"ETag": textHeader("Of this state.")}, "content": jsonContent(reference("Operation"))},
				"304": object{"description": "Nothing is new."},
			}),
		}
	case rt.ID == routeOperations:
		name = "cancel-operation"
		operation = object{
			"summary": "Cancel an operation: it undoes what it has done", "parameters": []any{wait},
			"responses": with(object{
				"200": object{"description": "It is undone, within the wait.", "content": jsonContent(reference("Operation"))},
				"202": accepted("It was asked to.", object{"Location": textHeader("The operation.")}), "409": responseOf("Conflict"),
			}),
		}
	case rt.ID == routeOperationList:
		delete(found, "404")
		delete(found, "410")
		times := object{"type": "string", "format": "date-time"}
		operation = object{
			"summary": "Your operations, newest first",
			"parameters": []any{
				queryParameter("status", "Only those of this status.", object{"enum": []any{StatusRunning, StatusCompensating, StatusCompleted, StatusCompensated, StatusStuck, StatusAbandoned}}),
				queryParameter("command", "Only those that this command began.", object{"type": "string"}),
				queryParameter("created_after", "Only younger ones.", times), queryParameter("created_before", "Only older ones.", times),
				queryParameter("cursor", "The next of the page before.", object{"type": "string"}),
				queryParameter("limit", "At most this many.", object{"type": "integer", "minimum": 1, "maximum": listLimitMax, "default": listLimitDefault}),
			},
			"responses": with(object{"200": object{"description": "A page.", "headers": object{"Link": textHeader("The next page.")}, "content": jsonContent(reference("OperationList"))}}),
		}
	case rt.ID == routeOperationEvents:
		operation = object{
			"summary":    "Progress of an operation as server-sent events",
			"parameters": []any{headerParameter("Last-Event-ID", "Continues after this event.", false, object{"type": "string"})},
			"responses": with(object{
				"200": object{"description": "Events `status`, and `done` at the end; the data is the operation.", "content": object{"text/event-stream": object{"schema": object{"type": "string"}}}},
				"204": object{"description": "It is done, and you know it."}, "406": responseOf("NotAcceptable"),
			}),
		}
	case rt.Kind == kindDocuments:
		return nil
	default:
		tag = "other"
		operation = object{"summary": words(rt.ID), "responses": object{"default": object{"description": "What it answers."}}}
		name = rt.ID + "-" + strings.ToLower(rt.Method)
	}
	d.finish(operation, name, tag, d.table.auth.builtIn, false)
	return operation
}

package gateway

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// object is a JSON object. Its members are written in the order of their names, so a
// document of the same table is the same to the byte.
type object map[string]any

// OpenAPI returns the OpenAPI 3.1 document of the routes of the table and of what is
// always there, but for the documents themselves. It depends on nothing but the table and
// the fragments, which describe resources: {"tag", "paths", "schemas"} in JSON, the latter
// two as in OpenAPI. They may refer to the responses and schemas of the document.
func (t *Table) OpenAPI(fragments ...[]byte) ([]byte, error) {
	d := &description{table: t, schemas: object{}, tags: make(map[string]bool)}
	paths := object{}
	put := func(method, pattern string, operation object) {
		if operation == nil {
			return
		}
		item, _ := paths[pattern].(object)
		if item == nil {
			item = object{}
			if parameters := pathParameters(pattern); len(parameters) > 0 {
				item["parameters"] = parameters
			}
			paths[pattern] = item
		}
		item[strings.ToLower(method)] = operation
	}
	for _, rt := range t.routes {
		put(rt.method, rt.pattern, d.route(rt))
	}
	for _, rt := range builtIn {
		put(rt.Method, rt.Path, d.builtIn(rt))
	}
	for _, text := range fragments {
		err := d.fragment(text, func(info RouteInfo, operation object) { put(info.Method, info.Path, operation) })
		if err != nil {
			return nil, err
		}
	}
	components := object{"schemas": d.schemas, "responses": sharedResponses()}
	if schemes := t.securitySchemes(); len(schemes) > 0 {
		components["securitySchemes"] = schemes
	}
	addShared(d.schemas)
	document := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Gateway", "version": "1",
			"description": "Commands are answered with `202` once the broker has stored them, and the operation tells what became of them. " +
				"Errors are problem documents (RFC 9457) whose `code` is for programs.",
		},
		"servers":    []any{object{"url": "/"}},
		"tags":       d.usedTags(),
		"paths":      paths,
		"components": components,
	}
	if schemes := t.securitySchemes(); len(schemes) == 0 {
		document["security"] = []any{} // nothing is asked for
	}
	for unused := true; unused; { // what is left out may have been all that used another
		text, err := json.Marshal(document)
		if err != nil {
			return nil, err
		}
		unused = prune(text, "schemas", d.schemas)
		unused = prune(text, "responses", components["responses"].(object)) || unused
	}
	return json.MarshalIndent(document, "", "  ")
}

// prune removes the components that a document does not refer to, and reports whether
// there was one.
func prune(document []byte, kind string, components object) (pruned bool) {
	for name := range components {
		to := []byte("\"#/components/" + kind + "/" + name)
		if !bytes.Contains(document, append(to, '"')) && !bytes.Contains(document, append(to, '/')) {
			delete(components, name)
			pruned = true
		}
	}
	return pruned
}

// description is an OpenAPI document in the making.
type description struct {
	table   *Table
	schemas object
	tags    map[string]bool
}

// tagTexts are the groups of routes, in the order in which they are shown.
var tagTexts = [][2]string{
	{"commands", "What starts an operation."},
	{"operations", "What became of a command."},
	{"signals", "What running operations wait for."},
	{"events", "Facts that others tell, as CloudEvents."},
	{"streams", "Events as they happen."},
	{"webhooks", "Events that are sent to you."},
	{"ai", "AI models, in the formats of OpenAI and Anthropic."},
	{"services", "What the services behind the gateway answer."},
	{"other", "Other routes."},
}

func (d *description) usedTags() (tags []any) {
	for _, tag := range tagTexts {
		if d.tags[tag[0]] {
			tags = append(tags, object{"name": tag[0], "description": tag[1]})
		}
	}
	return tags
}

// describer is a target that can say more of itself than that it is there.
type describer interface {
	describe(d *description) object
}

// route returns the operation of a route.
func (d *description) route(rt *route) object {
	operation := object{
		"summary": words(rt.id), "responses": object{"default": object{"description": "What the route answers."}},
	}
	tag := "other"
	if target, ok := rt.target.(describer); ok {
		described := target.describe(d)
		if named, ok := described["tag"].(string); ok {
			tag = named
			delete(described, "tag")
		}
		maps.Copy(operation, described)
	}
	d.finish(operation, rt.id, tag, rt.demand, len(rt.guards) > 0)
	return operation
}

// finish adds what holds for every operation.
func (d *description) finish(operation object, id, tag string, asked *demand, guarded bool) {
	operation["operationId"], operation["tags"] = id, []any{tag}
	d.tags[tag] = true
	responses := operation["responses"].(object)
	if asked != nil {
		operation["security"] = asked.security()
		orElse(responses, "401", "Unauthorized")
		orElse(responses, "503", "Unavailable")
	}
	if guarded || asked != nil && len(asked.scopes) > 0 {
		orElse(responses, "403", "Forbidden")
	}
	orElse(responses, "400", "BadRequest")
}

// orElse adds an answer that many operations have, unless the operation has one of its
// own.
func orElse(responses object, status, shared string) {
	if _, ok := responses[status]; !ok {
		responses[status] = responseOf(shared)
	}
}

// words makes a sentence of an id: place-order becomes Place order.
func words(id string) string {
	text := strings.ReplaceAll(id, "-", " ")
	return strings.ToUpper(text[:1]) + text[1:]
}

func pathParameters(pattern string) (parameters []any) {
	for segment := range strings.SplitSeq(pattern, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			parameters = append(parameters, object{"name": strings.TrimSuffix(name, "}"), "in": "path", "required": true, "schema": object{"type": "string"}})
		}
	}
	return parameters
}

// security returns the ways in which the demand can be met.
func (d *demand) security() (ways []any) {
	scopes := []any{}
	for _, scope := range d.scopes {
		scopes = append(scopes, scope)
	}
	if d.keys {
		ways = append(ways, object{"key": scopes})
	}
	if d.keys || len(d.issuers) > 0 {
		ways = append(ways, object{"bearer": scopes})
	}
	if d.optional {
		ways = append(ways, object{})
	}
	return ways
}

func (t *Table) securitySchemes() object {
	schemes := object{}
	demands := []*demand{t.auth.builtIn}
	for _, rt := range t.routes {
		demands = append(demands, rt.demand)
	}
	for _, d := range demands {
		if d == nil {
			continue
		}
		if d.keys {
			schemes["key"] = object{"type": "apiKey", "in": "header", "name": apiKeyHeader, "description": "An API key."}
		}
		schemes["bearer"] = object{"type": "http", "scheme": "bearer", "description": "An API key or a JSON Web Token, as the route takes them."}
	}
	return schemes
}

// schema puts the JSON Schema of a contract into the document and returns a reference
// to it.
func (d *description) schema(c *contract) object {
	if _, ok := d.schemas[c.Type]; !ok {
		var schema any
		if err := json.Unmarshal(c.Schema, &schema); err != nil { // cannot happen: it has been compiled
			schema = true
		}
		d.schemas[c.Type] = relocate(schema, "#/components/schemas/"+c.Type)
	}
	return reference(c.Type)
}

// relocate has references within a schema lead to where it is put.
func relocate(value any, to string) any {
	switch value := value.(type) {
	case map[string]any:
		moved := make(map[string]any, len(value))
		for name, inner := range value {
			text, isText := inner.(string)
			switch {
			case name == "$schema" || name == "$id":
			case name == "$ref" && isText && strings.HasPrefix(text, "#"):
				moved[name] = to + text[1:]
			default:
				moved[name] = relocate(inner, to)
			}
		}
		return moved
	case []any:
		moved := make([]any, len(value))
		for i, inner := range value {
			moved[i] = relocate(inner, to)
		}
		return moved
	}
	return value
}

func reference(schema string) object    { return object{"$ref": "#/components/schemas/" + schema} }
func responseOf(response string) object { return object{"$ref": "#/components/responses/" + response} }

func jsonContent(schema object) object {
	return object{contentTypeJSON: object{"schema": schema}}
}

// problemContent is a problem document with one of those codes.
func problemContent(codes ...string) object {
	schema := reference("Problem")
	if len(codes) > 0 {
		slices.Sort(codes)
		schema = object{"allOf": []any{reference("Problem"), object{"properties": object{"code": object{"enum": codes}}}}}
	}
	return object{contentTypeProblem: object{"schema": schema}}
}

// sharedResponses are the answers that many operations have. Their codes come from the
// catalogue.
func sharedResponses() object {
	all := object{}
	for name, answer := range map[string]struct {
		status int
		text   string
	}{
		"BadRequest":      {http.StatusBadRequest, "The request is malformed. Nothing was started."},
		"Unauthorized":    {http.StatusUnauthorized, "A credential is missing or not taken; see WWW-Authenticate."},
		"Forbidden":       {http.StatusForbidden, "A scope is missing, or a rule of the route refuses."},
		"NotFound":        {http.StatusNotFound, "There is no such thing, or it is another tenant's."},
		"NotAcceptable":   {http.StatusNotAcceptable, "There is no such representation."},
		"Conflict":        {http.StatusConflict, "What was asked for does not go with what is."},
		"Gone":            {http.StatusGone, "The operation is no longer kept."},
		"TooLarge":        {http.StatusRequestEntityTooLarge, "The body is too large."},
		"UnsupportedType": {http.StatusUnsupportedMediaType, "The body is of a type that is not taken."},
		"Unprocessable":   {http.StatusUnprocessableEntity, "The body breaks its schema, or the request does not go with an earlier one."},
		"Unavailable":     {http.StatusServiceUnavailable, "Try again later; `detail` says whether anything was started."},
		"BadGateway":      {http.StatusBadGateway, "The service behind the route cannot be reached."},
		"GatewayTimeout":  {http.StatusGatewayTimeout, "The service behind the route did not answer in time."},
	} {
		response := object{"description": answer.text, "content": problemContent(codesOf(answer.status)...)}
		headers := object{}
		switch answer.status {
		case http.StatusUnauthorized:
			headers["WWW-Authenticate"] = textHeader("How to send a credential (RFC 6750).")
		case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
			headers["Retry-After"] = object{"description": "Seconds.", "schema": object{"type": "integer"}}
		}
		if len(headers) > 0 {
			response["headers"] = headers
		}
		all[name] = response
	}
	return all
}

// codesOf returns the codes of the catalogue that have a status. Where routes and sagas
// add codes of their own, none are returned.
func codesOf(status int) (codes []string) {
	if status == http.StatusForbidden || status == http.StatusConflict || status == http.StatusUnprocessableEntity {
		return nil
	}
	for code, entry := range catalogue {
		if entry.status == status {
			codes = append(codes, code)
		}
	}
	return codes
}

func textHeader(text string) object {
	return object{"description": text, "schema": object{"type": "string"}}
}

func headerParameter(name, text string, required bool, schema object) object {
	return object{"name": name, "in": "header", "description": text, "required": required, "schema": schema}
}

func queryParameter(name, text string, schema object) object {
	return object{"name": name, "in": "query", "description": text, "schema": schema}
}

// addShared adds the schemas of what the gateway itself says.
func addShared(schemas object) {
	text, time := object{"type": "string"}, object{"type": "string", "format": "date-time"}
	link := object{"type": "object", "properties": object{"self": text}, "required": []any{"self"}}
	status := object{"enum": []any{
		StatusAccepted, StatusRunning, StatusCompensating, StatusCompleted, StatusCompensated, StatusStuck, StatusAbandoned,
	}}
	saga := object{"type": "object", "properties": object{"name": text, "version": object{"type": "integer"}}, "required": []any{"name", "version"}}
	maps.Copy(schemas, object{
		"Problem": object{
			"type": "object", "description": "A problem document (RFC 9457).",
			"required": []any{"type", "title", "status", "code", "retriable"},
			"properties": object{
				"type": text, "title": text, "status": object{"type": "integer"}, "detail": text, "instance": text,
				"code":      object{"type": "string", "description": "For programs."},
				"retriable": object{"type": "boolean", "description": "Whether the same request may succeed later."},
				"trace_id":  text,
				"errors": object{"type": "array", "maxItems": violationsMax, "items": object{
					"type": "object", "properties": object{"pointer": text, "detail": text}, "required": []any{"pointer", "detail"},
				}},
			},
		},
		"Accepted": object{
			"type": "object", "required": []any{"id", "status", "links"},
			"properties": object{"id": object{"type": "string", "format": "uuid"}, "status": status, "links": link},
		},
		"Operation": object{
			"type": "object", "required": []any{"id", "status", "done", "steps"},
			"properties": object{
				"id": object{"type": "string", "format": "uuid"}, "status": status, "done": object{"type": "boolean"}, "saga": saga,
				"steps": object{"type": "array", "items": object{
					"type": "object", "properties": object{"name": text, "status": text, "attempts": object{"type": "integer"}}, "required": []any{"name", "status", "attempts"},
				}},
				"result": object{"description": "Once completed."}, "error": reference("Problem"), "created_at": time, "updated_at": time,
			},
		},
		"OperationList": object{
			"type": "object", "required": []any{"operations"},
			"properties": object{
				"next": object{"type": "string", "description": "Cursor of the next page; absent on the last."},
				"operations": object{"type": "array", "items": object{
					"type": "object", "required": []any{"id", "status", "done", "command", "created_at", "updated_at", "links"},
					"properties": object{
						"id": object{"type": "string", "format": "uuid"}, "status": status, "done": object{"type": "boolean"}, "command": text,
						"saga": saga, "created_at": time, "updated_at": time, "links": link,
					},
				}},
			},
		},
		"AcceptedEvents": object{
			"type": "object", "required": []any{"events"},
			"properties": object{"events": object{"type": "array", "items": object{
				"type": "object", "required": []any{"id", "source", "status"},
				"properties": object{
					"id": text, "source": text, "status": object{"type": "integer"},
					"duplicate": object{"type": "boolean"}, "problem": reference("Problem"),
				},
			}}},
		},
	})
}

// statusText is the key of a response.
func statusText(status int) string { return strconv.Itoa(status) }

package prompt

import (
	"context"
	"encoding/json"
	"fmt"
)

// OpenAPI returns the OpenAPI 3.1 document of the prompts that a tenant may call, as
// their default channels stand, under a path such as /ai/v1/prompts.
func (s *Store) OpenAPI(ctx context.Context, tenant, base string) ([]byte, error) {
	listed, err := s.List(ctx, tenant)
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	content := func(schema any) object { return object{"application/json": object{"schema": schema}} }
	paths := object{}
	for _, l := range listed {
		c, version, err := s.compiled(ctx, tenant, l.Slug)
		if err != nil {
			return nil, err
		}
		var output any = object{"type": "string"}
		if len(c.Output) > 0 {
			output = c.Output
		}
		paths[base+"/"+l.Slug] = object{"post": object{
			"operationId": l.Slug, "summary": l.Description,
			"description": fmt.Sprintf("Version %d. A version or a channel can be named: %s/%s:%d, %s/%s:latest.", version, base, l.Slug, version, base, l.Slug),
			"requestBody": object{"required": true, "content": content(c.Variables)},
			"responses": object{
				"200": object{
					"description": "What the model has made",
					"headers": object{
						"X-Ai-Call-Id": object{"schema": object{"type": "string", "format": "uuid"}},
						"X-Ai-Cost":    object{"description": "In US dollars", "schema": object{"type": "string"}},
					},
					"content": content(object{"type": "object", "required": []string{"output", "prompt", "version"}, "properties": object{
						"output": output, "prompt": object{"type": "string"}, "version": object{"type": "integer"}, "repairs": object{"type": "integer"},
					}}),
				},
				"default": object{"description": "A problem document (RFC 9457)", "content": object{
					"application/problem+json": object{"schema": object{"$ref": "#/components/schemas/Problem"}},
				}},
			},
		}}
	}
	return json.Marshal(object{
		"openapi": "3.1.0", "info": object{"title": "Prompts", "version": "1"}, "paths": paths,
		"components": object{"schemas": object{"Problem": object{"type": "object", "properties": object{
			"type": object{"type": "string"}, "title": object{"type": "string"}, "status": object{"type": "integer"},
			"code": object{"type": "string"}, "detail": object{"type": "string"},
		}}}},
	})
}

package gateway

import (
	"regexp/syntax"
	"strings"
)

// sampleOf makes a document for a schema, as far as its keywords tell one.
func sampleOf(schema any) any {
	s, _ := schema.(map[string]any)
	if examples, ok := s["examples"].([]any); ok && len(examples) > 0 {
		return examples[0]
	}
	for _, name := range []string{"const", "default"} {
		if value, ok := s[name]; ok {
			return value
		}
	}
	if values, ok := s["enum"].([]any); ok && len(values) > 0 {
		return values[0]
	}
	kind, _ := s["type"].(string)
	switch kind {
	case "object", "":
		sample := make(map[string]any)
		properties, _ := s["properties"].(map[string]any)
		required, _ := s["required"].([]any)
		for _, name := range required {
			if name, ok := name.(string); ok {
				sample[name] = sampleOf(properties[name])
			}
		}
		return sample
	case "array":
		if least, _ := s["minItems"].(float64); least > 0 {
			return []any{sampleOf(s["items"])}
		}
		return []any{}
	case "integer", "number":
		if least, ok := s["minimum"].(float64); ok {
			return least
		}
		return 1
	case "boolean":
		return true
	}
	return sampleText(s)
}

// sampleTexts are those of formats.
var sampleTexts = map[string]string{
	"date-time": "2026-01-01T00:00:00Z", "date": "2026-01-01", "time": "12:00:00Z", "duration": "PT1H",
	"email": "ada@example.com", "uri": "https://example.com/", "uuid": "00000000-0000-4000-8000-000000000000",
}

func sampleText(s map[string]any) string {
	format, _ := s["format"].(string)
	if text, ok := sampleTexts[format]; ok {
		return text
	}
	least, _ := s["minLength"].(float64)
	if pattern, ok := s["pattern"].(string); ok {
		if parsed, err := syntax.Parse(pattern, syntax.Perl); err == nil {
			var b strings.Builder
			match(&b, parsed, int(least))
			return b.String()
		}
	}
	return strings.Repeat("x", max(1, int(least)))
}

// match writes a text that the expression matches, which needs not be all there is to
// match; loops that may end go on until the text is that long.
func match(b *strings.Builder, e *syntax.Regexp, least int) {
	switch e.Op {
	case syntax.OpLiteral:
		b.WriteString(string(e.Rune))
	case syntax.OpCharClass:
		b.WriteRune(pick(e.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		b.WriteByte('x')
	case syntax.OpCapture, syntax.OpConcat:
		for _, sub := range e.Sub {
			match(b, sub, least)
		}
	case syntax.OpAlternate:
		match(b, e.Sub[0], least)
	case syntax.OpPlus, syntax.OpStar, syntax.OpRepeat:
		often, most := e.Min, e.Max
		if e.Op != syntax.OpRepeat {
			most = -1
		}
		if e.Op == syntax.OpPlus {
			often = 1
		}
		for n := 0; n < often || b.Len() < least && (most < 0 || n < most); n++ {
			match(b, e.Sub[0], 0)
		}
	default: // anchors, and what may be left out
	}
}

// pick returns a character of a class: one that people like to read, if there is one.
func pick(ranges []rune) rune {
	for _, liked := range "ax0A1" {
		for i := 0; i+1 < len(ranges); i += 2 {
			if ranges[i] <= liked && liked <= ranges[i+1] {
				return liked
			}
		}
	}
	return ranges[0]
}

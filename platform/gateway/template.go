package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// pathTemplate is a path in which {id} stands for an operation and {result.x} for
// a field of its result. Its zero value is no path at all.
type pathTemplate []templatePart

type templatePart struct {
	literal string
	field   []string // of the result; nil for a literal or the id
	id      bool
}

var fieldPattern = regexp.MustCompile(`^result(\.[A-Za-z_][A-Za-z0-9_]*)+$`)

func parsePathTemplate(text string) (pathTemplate, error) {
	bad := errors.New("want a path in which {id} stands for the operation and {result.field} for a field of its result, such as /v1/orders/{id}")
	if !strings.HasPrefix(text, "/") || strings.ContainsAny(text, " \r\n") {
		return nil, bad
	}
	var t pathTemplate
	for text != "" {
		literal, rest, found := strings.Cut(text, "{")
		if strings.Contains(literal, "}") {
			return nil, bad
		}
		t = append(t, templatePart{literal: literal})
		if !found {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		switch {
		case closed && name == "id":
			t = append(t, templatePart{id: true})
		case closed && fieldPattern.MatchString(name):
			t = append(t, templatePart{field: strings.Split(name, ".")[1:]})
		default:
			return nil, bad
		}
		text = after
	}
	return t, nil
}

// expand returns the path for an operation. It fails when the result has no such
// field, or one that is neither a text nor a number.
func (t pathTemplate) expand(op *Operation) (string, error) {
	var b strings.Builder
	for _, part := range t {
		switch {
		case part.id:
			b.WriteString(op.ID)
		case part.field == nil:
			b.WriteString(part.literal)
		default:
			value, err := fieldOf(op.Result, part.field)
			if err != nil {
				return "", err
			}
			b.WriteString(url.PathEscape(value))
		}
	}
	return b.String(), nil
}

func fieldOf(result json.RawMessage, path []string) (string, error) {
	for _, name := range path {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(result, &fields); err != nil || fields[name] == nil {
			return "", fmt.Errorf("the result has no field %s", strings.Join(path, "."))
		}
		result = fields[name]
	}
	var text string
	if json.Unmarshal(result, &text) == nil && text != "" && text != "." && text != ".." {
		return text, nil
	}
	var number json.Number
	if json.Unmarshal(result, &number) == nil && number != "" && result[0] != '"' {
		return number.String(), nil
	}
	return "", fmt.Errorf("the field %s of the result is neither a text nor a number", strings.Join(path, "."))
}

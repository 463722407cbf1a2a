package token

import (
	"strings"
)

// Claims are what a token says.
type Claims map[string]any

// at returns the claim of that name or, when it begins with a slash, at that JSON
// Pointer, such as /realm_access/roles.
func (c Claims) at(name string) any {
	if !strings.HasPrefix(name, "/") {
		return c[name]
	}
	var value any = map[string]any(c)
	for part := range strings.SplitSeq(name[1:], "/") {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
	}
	return value
}

// Text returns a claim that is a text, and else an empty one.
func (c Claims) Text(name string) string {
	text, _ := c.at(name).(string)
	return text
}

// Words returns the words of a claim: those of a text with spaces between them, as in
// scope, or of a list.
func (c Claims) Words(name string) (words []string) {
	switch value := c.at(name).(type) {
	case string:
		return strings.Fields(value)
	case []any:
		for _, one := range value {
			if word, ok := one.(string); ok {
				words = append(words, word)
			}
		}
	}
	return words
}

// ValidScope reports whether a text can be a scope (RFC 6749 §3.3).
func ValidScope(text string) bool {
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return text != "" && len(text) <= 128
}

package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// kinds are what is known to be about a person.
var kinds = map[string]*regexp.Regexp{
	"email": regexp.MustCompile(`[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.[A-Za-z]{2,24}`),
	"iban":  regexp.MustCompile(`\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b`),
	"card":  regexp.MustCompile(`\b(?:\d[ -]?){12,18}\d\b`),
	"phone": regexp.MustCompile(`\+\d{1,3}[ -]?(?:\(\d{1,4}\)[ -]?)?\d{1,4}(?:[ -]?\d{2,4}){2,4}\b`),
	"ipv4":  regexp.MustCompile(`\b(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?:25[0-5]|2[0-4]\d|1?\d?\d)){3}\b`),
	"ssn":   regexp.MustCompile(`\b\d{3}-\d{2}-\d{4}\b`),
}

func (r *reader) redact(f redactFile) Redact {
	var out Redact
	for _, kind := range f.Kinds {
		pattern, known := kinds[kind]
		if !known {
			r.fail("redact: kinds: %q is none of %s", kind, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
			continue
		}
		out.Patterns = append(out.Patterns, Pattern{kind, pattern})
	}
	for _, name := range slices.Sorted(maps.Keys(f.Patterns)) {
		pattern, err := regexp.Compile(f.Patterns[name])
		if err != nil {
			r.fail("redact: patterns: %s: %v", name, err)
			continue
		}
		if pattern.MatchString("") {
			r.fail("redact: patterns: %s: it matches the empty text", name)
			continue
		}
		out.Patterns = append(out.Patterns, Pattern{name, pattern})
	}
	return out
}

// Apply takes out of a text what the patterns find. A card's number is taken out only
// when its last digit is right.
func (r Redact) Apply(text string) string {
	for _, p := range r.Patterns {
		text = p.Pattern.ReplaceAllStringFunc(text, func(found string) string {
			if p.Name == "card" && !luhn(found) {
				return found
			}
			return "[" + p.Name + "]"
		})
	}
	return text
}

// luhn reports whether the check digit of a card's number is right.
func luhn(text string) bool {
	sum, double := 0, false
	for i := len(text) - 1; i >= 0; i-- {
		if text[i] < '0' || text[i] > '9' {
			continue
		}
		n := int(text[i] - '0')
		if double {
			if n *= 2; n > 9 {
				n -= 9
			}
		}
		sum += n
		double = !double
	}
	return sum%10 == 0
}

package gateway

import "strings"

// accepts reports whether the values of Accept allow a media type: none at all, or
// one range that covers it with a weight above zero.
func accepts(values []string, mediaType string) bool {
	if len(values) == 0 {
		return true
	}
	family, _, _ := strings.Cut(mediaType, "/")
	for _, line := range values {
		for item := range strings.SplitSeq(line, ",") {
			name, parameters, _ := strings.Cut(item, ";")
			switch name = strings.ToLower(strings.TrimSpace(name)); name {
			case "*/*", family + "/*", mediaType:
			default:
				continue
			}
			if weight := strings.ReplaceAll(parameters, " ", ""); !strings.HasPrefix(weight, "q=0") || strings.ContainsAny(weight, "123456789") {
				return true
			}
		}
	}
	return false
}

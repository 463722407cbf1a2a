package upstream

import (
	"bytes"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire/body"
)

// hosted are the beginnings of the types of tools that the provider runs, for a price of
// their own.
var hosted = []string{"web_search", "file_search", "code_interpreter", "code_execution", "image_generation"}

// extraOf finds what a request asks for that costs something else than tokens of its
// model. Of several it is one whose price is not known, if there is one.
func extraOf(o *body.Object) ai.Extra {
	for _, tool := range o.Get("tools").Array() {
		kind := tool.Get("type").Str
		if slices.ContainsFunc(hosted, func(prefix string) bool { return strings.HasPrefix(kind, prefix) }) {
			return ai.HostedTools
		}
	}
	if o.Get("web_search_options").Exists() {
		return ai.HostedTools
	}
	data := o.Bytes()
	if bytes.Contains(data, []byte(`"input_audio"`)) || bytes.Contains(data, []byte(`"data:audio/`)) {
		return ai.Audio
	}
	for _, modality := range o.Get("modalities").Array() {
		if modality.Str == "audio" {
			return ai.Audio
		}
	}
	if bytes.Contains(data, []byte(`"1h"`)) && cachesLong(gjson.ParseBytes(data)) {
		return ai.LongCache
	}
	return ""
}

// cachesLong reports whether a part of the request is to stay in the provider's cache
// for an hour.
func cachesLong(value gjson.Result) (found bool) {
	body.Visit(value, func(key, inner gjson.Result) bool {
		found = key.Str == "cache_control" && inner.Get("ttl").Str == "1h" || cachesLong(inner)
		return !found
	})
	return found
}

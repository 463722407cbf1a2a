package upstream

import (
	"testing"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire/body"
)

func TestWhatCostsSomethingElseIsFound(t *testing.T) {
	for text, want := range map[string]ai.Extra{
		`{"messages":[{"role":"user","content":"\"1h\" of \"input_audio\" and web_search"}]}`:                                             "",
		`{"tools":[{"type":"function","function":{"name":"web_search"}},{"name":"x","input_schema":{}},{"type":"bash_20250124"}]}`:        "",
		`{"messages":[{"content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"5m"}}]}],"tools":[{"name":"1h"}]}`: "",
		`{"ttl":"1h"}`: "",
		`{"system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"1h"}}]}`:                                                 ai.LongCache,
		`{"messages":[{"content":[{"type":"text","text":"x"},{"type":"image","cache_control":{"type":"ephemeral","ttl":"1h"}}]},{"content":""}]}`: ai.LongCache,
		`{"messages":[{"content":[{"type":"input_audio","input_audio":{"data":"","format":"wav"}}]}]}`:                                            ai.Audio,
		`{"messages":[{"content":[{"type":"file","file":{"file_data":"data:audio/mpeg;base64,"}}]}]}`:                                             ai.Audio,
		`{"modalities":["text","audio"],"audio":{"voice":"x","format":"wav"}}`:                                                                    ai.Audio,
		`{"tools":[{"type":"web_search_20250305","name":"web_search"}]}`:                                                                          ai.HostedTools,
		`{"tools":[{"type":"function"},{"type":"web_search_preview"}]}`:                                                                           ai.HostedTools,
		`{"web_search_options":{}}`: ai.HostedTools,
		`{"tools":[{"type":"code_interpreter"}],"system":[{"cache_control":{"ttl":"1h"}}]}`: ai.HostedTools,
	} {
		object, err := body.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := extraOf(object); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

package events

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// Every byte at every place of texts around eight bytes, which are looked at together.
func TestTextIsSeenAsByteForByte(t *testing.T) {
	t.Parallel()
	for length := range 18 {
		for at := range length {
			for c := range 256 {
				text := strings.Repeat("~", at) + string([]byte{byte(c)}) + strings.Repeat("!", length-at-1)
				valid, plain := utf8.ValidString(text), true
				for i := range len(text) {
					valid = valid && text[i] >= ' ' && text[i] != 0x7f
					plain = plain && !mustEncode(text[i])
				}
				if got := validText(text); got != valid {
					t.Errorf("%q is valid: %t", text, got)
				}
				encoded := PercentEncode(text)
				if (encoded == text) != plain {
					t.Errorf("%q is encoded to %q", text, encoded)
				}
				if back, err := PercentDecode(encoded); utf8.ValidString(text) && (err != nil || back != text) {
					t.Errorf("%q comes back as %q, %v", encoded, back, err)
				}
			}
		}
	}
}

func BenchmarkNATSHeaders(b *testing.B) {
	e := Event{
		ID: NewID(), Source: "/services/inventory", Type: "shop.inventory.reserve.v1.reply", DataContentType: ContentTypeJSON,
		CorrelationID: NewID(), CausationID: NewID(), PartitionKey: NewID(),
	}
	b.Run("validate", func(b *testing.B) {
		for b.Loop() {
			if err := e.Validate(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encode", func(b *testing.B) {
		headers := make(map[string]string)
		for b.Loop() {
			NATS.Encode(&e, func(name, value string) { headers[name] = value })
		}
	})
}

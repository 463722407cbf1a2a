package events_test

import (
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
)

func TestPercentEncode(t *testing.T) {
	t.Run("follows the example of the HTTP binding", func(t *testing.T) {
		// CloudEvents HTTP binding §3.1.3.2.
		if got := events.PercentEncode("Euro € 😀"); got != "Euro%20%E2%82%AC%20%F0%9F%98%80" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("every value comes back", func(t *testing.T) {
		var control strings.Builder
		for c := range 0x80 {
			control.WriteByte(byte(c))
		}
		for _, value := range []string{
			"", "plain", "é", "%", "%41", "100 %", `"`, `""`, `"quoted"`, `a\b`, `"\`, " ", " padded ", "\r\n", "a\r\nce-id: 2",
			control.String(), "\u0080\u009f\ufdd0\U0010ffff", strings.Repeat(`é%"`+"\n", 64<<10/5),
		} {
			encoded := events.PercentEncode(value)
			for i := range len(encoded) {
				if c := encoded[i]; c <= ' ' || c >= 0x7f || c == '"' {
					t.Fatalf("PercentEncode(%.40q) holds the byte %q", value, c)
				}
			}
			if got, err := events.PercentDecode(encoded); err != nil || got != value {
				t.Errorf("PercentDecode(PercentEncode(%.40q)) = %.40q, %v", value, got, err)
			}
		}
	})
	t.Run("a plain value costs nothing", func(t *testing.T) {
		if n := testing.AllocsPerRun(100, func() { _ = events.PercentEncode("018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f") }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

func TestPercentDecode(t *testing.T) {
	for value, want := range map[string]string{
		"plain":             "plain",
		"%c3%A9":            "é", // digits of either case
		"é":                 "é", // a sender that does not encode
		`"two words"`:       "two words",
		`"say \"no\" %25"`:  `say "no" %`,
		`"back\\slash"`:     `back\slash`,
		`"`:                 `"`,
		`""`:                "",
		`"%22quoted%22"`:    `"quoted"`, // decoded once: what comes out is not unquoted again
		"%2541":             "%41",      // decoded once
		"a+b":               "a+b",
		"application/%78ml": "application/xml",
	} {
		if got, err := events.PercentDecode(value); err != nil || got != want {
			t.Errorf("PercentDecode(%q) = %q, %v, want %q", value, got, err, want)
		}
	}
	for _, value := range []string{"%", "%4", "%4g", "a%", "%%41", "%C3%28", "%ff", "\xff", `"%f"`} {
		if got, err := events.PercentDecode(value); err == nil {
			t.Errorf("PercentDecode(%q) = %q, want an error", value, got)
		}
	}
}

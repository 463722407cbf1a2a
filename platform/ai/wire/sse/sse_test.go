package sse_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/countermand/countermand/platform/ai/wire/sse"
)

type event struct{ name, data string }

func read(t *testing.T, source io.Reader, bound int) (events []event, raw string, err error) {
	t.Helper()
	r := sse.NewReader(source, bound)
	for {
		e, err := r.Next()
		if err != nil {
			return events, raw, err
		}
		events = append(events, event{e.Name, string(e.Data)})
		raw += string(e.Raw)
	}
}

func TestFramesHoweverTheyArrive(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []event
	}{
		"plain":                 {"data: a\n\ndata: b\n\n", []event{{"", "a"}, {"", "b"}}},
		"named":                 {"event: ping\ndata: {}\n\n", []event{{"ping", "{}"}}},
		"several lines of data": {"data: a\ndata:b\ndata:  c\n\n", []event{{"", "a\nb\n c"}}},
		"carriage returns":      {"data: a\r\n\r\ndata: b\r\rdata: c\n\n", []event{{"", "a"}, {"", "b"}, {"", "c"}}},
		"a comment":             {": PROCESSING\n\ndata: a\n\n", []event{{"", ""}, {"", "a"}}},
		"a byte order mark":     {"\xef\xbb\xbfdata: a\n\n", []event{{"", "a"}}},
		"no empty line at last": {"data: a\n\ndata: [DONE]\n", []event{{"", "a"}, {"", "[DONE]"}}},
		"no line end at last":   {"data: a", []event{{"", "a"}}},
		"too many empty lines":  {"\n\n\ndata: a\n\n\n\n", []event{{"", "a"}}},
		"other fields":          {"id: 1\nretry: 5\ndata: a\n\n", []event{{"", "a"}}},
		"nothing":               {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			for how, source := range map[string]io.Reader{
				"at once": strings.NewReader(tt.text), "by bytes": iotest.OneByteReader(strings.NewReader(tt.text)),
				"with the end": iotest.DataErrReader(strings.NewReader(tt.text)),
			} {
				got, _, err := read(t, source, 1<<16)
				if !errors.Is(err, io.EOF) {
					t.Errorf("%s: ended with %v", how, err)
				}
				if len(got) != len(tt.want) {
					t.Fatalf("%s: %q, want %q", how, got, tt.want)
				}
				for i := range got {
					if got[i] != tt.want[i] {
						t.Errorf("%s: event %d is %q, want %q", how, i, got[i], tt.want[i])
					}
				}
			}
		})
	}
}

func TestEventsAreBounded(t *testing.T) {
	large := "data: " + strings.Repeat("x", 20_000) + "\n\n"
	got, _, err := read(t, strings.NewReader("data: a\n\n"+large), 16<<10)
	if !errors.Is(err, sse.ErrTooLarge) || len(got) != 1 {
		t.Errorf("%d events, then %v; want one, then %v", len(got), err, sse.ErrTooLarge)
	}
	if got, _, err = read(t, strings.NewReader(large+large), 32<<10); !errors.Is(err, io.EOF) || len(got) != 2 {
		t.Errorf("under the bound: %d events, then %v", len(got), err)
	}
}

func TestACutSourceIsTold(t *testing.T) {
	cut := errors.New("connection reset")
	got, _, err := read(t, io.MultiReader(strings.NewReader("data: a\n\ndata: {\"half\":"), iotest.ErrReader(cut)), 1<<10)
	if !errors.Is(err, cut) || len(got) != 1 {
		t.Errorf("%q, then %v; want the whole event and the error", got, err)
	}
}

func FuzzReader(f *testing.F) {
	for _, seed := range []string{"data: a\n\n", "event: x\r\ndata: a\r\ndata: b\r\n\r\n", "\r\r\n\n:c\ndata\n\n", "data: a\r"} {
		f.Add([]byte(seed), 3)
	}
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		if size < 1 || size > 1<<10 {
			size = 7
		}
		whole, wholeRaw, wholeErr := read(t, bytes.NewReader(data), 1<<20)
		parts, partsRaw, partsErr := read(t, &chunks{data, size}, 1<<20)
		if !errors.Is(wholeErr, io.EOF) || !errors.Is(partsErr, io.EOF) {
			t.Fatalf("ended with %v and %v", wholeErr, partsErr)
		}
		if len(whole) != len(parts) {
			t.Fatalf("%q at once, %q in parts of %d", whole, parts, size)
		}
		for i := range whole {
			if whole[i] != parts[i] {
				t.Fatalf("event %d: %q at once, %q in parts of %d", i, whole[i], parts[i], size)
			}
		}
		strip := strings.NewReplacer("\r", "", "\n", "")
		if got, want := strip.Replace(wholeRaw), strip.Replace(string(data)); got != want {
			t.Fatalf("frames hold %q of %q", got, want)
		}
		_ = partsRaw
	})
}

func TestAppendedDataMayHaveLines(t *testing.T) {
	frame := sse.Append(nil, "message", []byte("{\n  \"a\": 1\n}"))
	e, err := sse.NewReader(bytes.NewReader(frame), 1<<10).Next()
	if err != nil || string(e.Data) != "{\n  \"a\": 1\n}" || e.Name != "message" {
		t.Errorf("%q is read as %q, %v", frame, e.Data, err)
	}
}

// chunks gives its data in parts of one size.
type chunks struct {
	data []byte
	size int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.size)], c.data)
	c.data = c.data[n:]
	return n, nil
}

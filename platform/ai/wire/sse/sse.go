// Package sse reads and writes event streams (text/event-stream) one event at a
// time, with a bound on the size of each.
package sse

import (
	"bytes"
	"errors"
	"io"
	"slices"
)

// ErrTooLarge is returned for an event above the bound of its reader.
var ErrTooLarge = errors.New("an event of the stream is too large")

// Event is one event. Its bytes are good until the next one is asked for.
type Event struct {
	// Name is the field event, empty when there is none.
	Name string
	// Data is the field data, its lines joined; nil for a frame without, such as a
	// comment that keeps the connection open.
	Data []byte
	// Raw is the frame as it came, with the empty line at its end.
	Raw []byte
}

// Reader reads events. It is not safe for concurrent use.
type Reader struct {
	source  io.Reader
	buffer  []byte
	start   int // of the event that is read
	scanned int // up to here no end was found
	line    int // where the line at scanned begins
	end     int // of what has been read from source
	found   int // where the event that begins at start ends; 0: not known
	max     int
	err     error
	joined  []byte
}

const bufferBytes = 8 << 10

// NewReader returns a reader of events of at most eventBytesMax.
func NewReader(source io.Reader, eventBytesMax int) *Reader {
	return &Reader{source: source, buffer: make([]byte, min(bufferBytes, eventBytesMax)), max: eventBytesMax}
}

// Next returns the next event. At the end of the source it returns io.EOF; an event
// that lacks the empty line at its end is given before that, since some servers leave
// it out.
func (r *Reader) Next() (Event, error) {
	for {
		if r.Ready() {
			raw := r.buffer[r.start:r.found]
			r.start, r.scanned, r.line, r.found = r.found, r.found, r.found, 0
			if blank(raw) {
				continue
			}
			return r.parse(raw), nil
		}
		if r.err != nil {
			if rest := r.buffer[r.start:r.end]; errors.Is(r.err, io.EOF) && !blank(rest) {
				r.start, r.scanned, r.line = r.end, r.end, r.end
				return r.parse(rest), nil
			}
			return Event{}, r.err
		}
		r.fill()
	}
}

// Ready reports whether Next has an event without reading from the source.
func (r *Reader) Ready() bool {
	if r.found == 0 {
		r.found = r.frame()
	}
	return r.found > 0
}

// frame returns where the event that begins at start ends, or 0 when that has not
// been read yet.
func (r *Reader) frame() int {
	for r.scanned < r.end {
		rest := r.buffer[r.scanned:r.end]
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			i = len(rest)
		}
		if j := bytes.IndexByte(rest[:i], '\r'); j >= 0 {
			i = j
		}
		if i == len(rest) {
			r.scanned = r.end
			return 0
		}
		at := r.scanned + i
		next := at + 1
		if r.buffer[at] == '\r' {
			switch {
			case next < r.end && r.buffer[next] == '\n':
				next++
			case next == r.end && r.err == nil:
				r.scanned = at // whether a line feed follows is not known yet
				return 0
			}
		}
		empty := at == r.line
		r.scanned, r.line = next, next
		if empty {
			return next
		}
	}
	return 0
}

func (r *Reader) fill() {
	if r.start > 0 {
		copy(r.buffer, r.buffer[r.start:r.end])
		r.end -= r.start
		r.scanned -= r.start
		r.line -= r.start
		r.start = 0
	}
	if r.end == len(r.buffer) {
		if len(r.buffer) >= r.max {
			r.err = ErrTooLarge
			return
		}
		larger := make([]byte, min(2*len(r.buffer), r.max))
		copy(larger, r.buffer)
		r.buffer = larger
	}
	n, err := r.source.Read(r.buffer[r.end:])
	r.end += n
	r.err = err
}

// blank reports whether a frame holds line ends only.
func blank(raw []byte) bool { return len(bytes.Trim(raw, "\r\n")) == 0 }

var byteOrderMark = []byte("\xef\xbb\xbf")

func (r *Reader) parse(raw []byte) Event {
	e := Event{Raw: raw}
	rest, lines := bytes.TrimPrefix(raw, byteOrderMark), 0
	for len(rest) > 0 {
		line := rest
		if i := bytes.IndexAny(rest, "\r\n"); i >= 0 {
			line, rest = rest[:i], rest[i+1:]
		} else {
			rest = nil
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if found && len(value) > 0 && value[0] == ' ' {
			value = value[1:]
		}
		switch string(name) {
		case "event":
			e.Name = string(value)
		case "data":
			switch lines++; lines {
			case 1:
				e.Data = slices.Clip(value)
			case 2:
				r.joined = append(append(append(r.joined[:0], e.Data...), '\n'), value...)
				e.Data = r.joined
			default:
				r.joined = append(append(r.joined, '\n'), value...)
				e.Data = r.joined
			}
		}
	}
	return e
}

var lineFeed = []byte("\n")

// Append appends an event to dst. name may be empty, and may hold no line end; data may,
// as JSON that is indented does.
func Append(dst []byte, name string, data []byte) []byte {
	if name != "" {
		dst = append(append(append(dst, "event: "...), name...), '\n')
	}
	for {
		line, rest, more := bytes.Cut(data, lineFeed)
		dst = append(append(append(dst, "data: "...), line...), '\n')
		if !more {
			return append(dst, '\n')
		}
		data = rest
	}
}

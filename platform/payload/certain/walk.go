package certain

import (
	"bytes"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// walker reads a document once from its beginning. All its methods report whether what
// they have read is certain; after one that says no, it is of no use any more.
type walker struct {
	data      []byte
	at        int
	strangers [][]byte // names that their schemas do not know, of all objects it is in
	unquoted  []byte   // the text that was read last, if it was written with escapes
}

// space passes white space and returns what comes then; 0 at the end.
func (w *walker) space() byte {
	for ; w.at < len(w.data); w.at++ {
		switch c := w.data[w.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// skip passes c, which must be next.
func (w *walker) skip(c byte) bool {
	if w.at == len(w.data) || w.data[w.at] != c {
		return false
	}
	w.at++
	return true
}

func (w *walker) value(r *rule, depth int) bool {
	switch w.space() {
	case '"':
		return r.kinds&text != 0 && w.text(r)
	case '{':
		return r.kinds&object != 0 && w.object(r, depth+1)
	case '[':
		return r.kinds&array != 0 && w.array(r, depth+1)
	case 't':
		return r.kinds&boolean != 0 && w.literal(r, "true")
	case 'f':
		return r.kinds&boolean != 0 && w.literal(r, "false")
	case 'n':
		return r.kinds&null != 0 && w.literal(r, "null")
	}
	return w.number(r)
}

func (w *walker) literal(r *rule, want string) bool {
	if !bytes.HasPrefix(w.data[w.at:], []byte(want)) {
		return false
	}
	w.at += len(want)
	return r.enum == nil || slices.Contains(r.enum.literals, want)
}

func (w *walker) array(r *rule, depth int) bool {
	w.at++
	if depth > depthMax {
		return false
	}
	n := 0
	if w.space() != ']' {
		for {
			if n++; !w.value(r.items, depth) {
				return false
			}
			if w.space() != ',' {
				break
			}
			w.at++
		}
	}
	return w.skip(']') && r.count.holds(n)
}

func (w *walker) object(r *rule, depth int) bool {
	w.at++
	if depth > depthMax {
		return false
	}
	n, seen, strangers := 0, uint64(0), len(w.strangers)
	if w.space() != '}' {
		for {
			if n++; !w.member(r, &seen, strangers, depth) {
				return false
			}
			if w.space() != ',' {
				break
			}
			w.at++
		}
	}
	w.strangers = w.strangers[:strangers]
	return w.skip('}') && seen&r.required == r.required && r.size.holds(n)
}

// member reads a name and its value. seen has the bits of the fields that were met
// before, and the names that the schema does not know begin at strangers.
func (w *walker) member(r *rule, seen *uint64, strangers, depth int) bool {
	if w.space() != '"' {
		return false
	}
	name, escaped, ok := w.quoted()
	if !ok || escaped || w.space() != ':' {
		return false
	}
	w.at++
	if at := r.field(name); at >= 0 {
		again := *seen&(1<<at) != 0
		*seen |= 1 << at
		return !again && w.value(r.fields[at].rule, depth)
	}
	before := w.strangers[strangers:]
	if len(before) == strangerMax || slices.ContainsFunc(before, func(b []byte) bool { return bytes.Equal(b, name) }) {
		return false
	}
	w.strangers = append(w.strangers, name)
	return w.value(r.others, depth)
}

// quoted reads a string and returns what is between its quotation marks, as it is
// written.
func (w *walker) quoted() (written []byte, escaped, ok bool) {
	data, begin, high := w.data, w.at+1, false
	for at := begin; at < len(data); at++ {
		switch c := data[at]; {
		case c == '"':
			written, w.at = data[begin:at], at+1
			return written, escaped, !high || utf8.Valid(written)
		case c == '\\':
			escaped = true
			at++
		case c < ' ':
			return nil, false, false
		case c >= utf8.RuneSelf:
			high = true
		}
	}
	return nil, false, false
}

func (w *walker) text(r *rule) bool {
	begin := w.at
	content, escaped, ok := w.quoted()
	if !ok {
		return false
	}
	if escaped {
		var err error
		w.unquoted, err = jsontext.AppendUnquote(w.unquoted[:0], w.data[begin:w.at])
		if content = w.unquoted; err != nil || bytes.IndexByte(content, 0) >= 0 {
			return false
		}
	}
	// A text has no more characters than bytes, and at least a quarter of them.
	if n := len(content); n > r.length.high || n/utf8.UTFMax < r.length.low {
		if !r.length.holds(utf8.RuneCount(content)) {
			return false
		}
	}
	return (r.enum == nil || slices.Contains(r.enum.texts, string(content))) &&
		(r.match == nil || r.match(content)) &&
		(r.format == nil || r.format(string(content)) == nil)
}

// number reads what is a number, or else nothing that may stand there.
func (w *walker) number(r *rule) bool {
	begin := w.at
	negative := w.skip('-')
	first := w.at
	n := w.digits()
	if n == 0 || n > 1 && w.data[first] == '0' || n > digitsMax {
		return false
	}
	if w.at == len(w.data) || w.data[w.at] != '.' && w.data[w.at]|0x20 != 'e' {
		var number int64
		for _, c := range w.data[first:w.at] {
			number = number*10 + int64(c-'0')
		}
		if negative {
			number = -number
		}
		return r.kinds&integer != 0 && r.whole.low <= number && number <= r.whole.high &&
			(r.enum == nil || slices.Contains(r.enum.literals, string(w.data[begin:w.at])))
	}
	if w.skip('.') && w.digits() == 0 {
		return false
	}
	if w.skip('e') || w.skip('E') {
		if !w.skip('-') {
			w.skip('+')
		}
		if w.digits() == 0 {
			return false
		}
	}
	const exactBelow = 1 << 53
	number, err := strconv.ParseFloat(string(w.data[begin:w.at]), 64)
	return err == nil && -exactBelow < number && number < exactBelow &&
		r.kinds&fraction != 0 && r.around.low < number && number < r.around.high
}

// digits passes digits and returns how many they are.
func (w *walker) digits() (n int) {
	for ; w.at < len(w.data) && '0' <= w.data[w.at] && w.data[w.at] <= '9'; w.at++ {
		n++
	}
	return n
}

package simulated

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// request is what an answer follows from, whatever format it came in.
type request struct {
	model      string
	text       string // the last of the user
	inputBytes int    // of all texts and tools
	inputs     int    // to embed, when it is a list
	tools      []tool
	mustCall   string // a function, or * for any
	results    []string
	schema     gjson.Result // of the answer
	outputMax  int64
	stream     bool
	usageAsked bool
}

type tool struct {
	name   string
	schema gjson.Result
}

// plan is how a request is answered.
type plan struct {
	fail    int // status
	latency time.Duration
	pause   time.Duration // between parts
	cut     int           // after so many parts; 0: not
	hang    bool
	pieces  []string // of the text
	calls   []call
	length  bool // the bound of the output was reached
	input   int64
	cached  int64
	output  int64
}

type call struct{ id, name, arguments string }

const (
	wordsDefault = 40
	wordsMax     = 100_000
	latencyMax   = time.Minute
	// bytesPerToken is what a token is taken for.
	bytesPerToken = 4
)

var directive = regexp.MustCompile(`\[\[sim ([a-z0-9= .]*)\]\]`)

func (r *request) plan() plan {
	p := plan{input: int64(r.inputBytes+bytesPerToken-1) / bytesPerToken}
	text, words := r.text, 0
	for _, found := range directive.FindAllStringSubmatch(r.text, 8) {
		text = strings.TrimSpace(strings.Replace(text, found[0], "", 1))
		for setting := range strings.FieldsSeq(found[1]) {
			name, value, _ := strings.Cut(setting, "=")
			p.set(name, value, &words)
		}
	}
	kind, argument, _ := strings.Cut(strings.TrimPrefix(r.model, "sim-"), "-")
	switch kind {
	case "fail":
		p.set("fail", argument, &words)
		p.fail = max(p.fail, http.StatusBadRequest)
	case "cut":
		p.cut = 2
	case "hang":
		p.hang = true
	case "slow":
		p.latency = time.Second
		p.set("latency", argument, &words)
	case "words":
		if words == 0 {
			words = wordsDefault
			if r.outputMax > 0 {
				words = int(min(r.outputMax, wordsMax))
			}
		}
	}
	switch {
	case r.mustCall != "" || kind == "tools" && len(r.tools) > 0 && len(r.results) == 0:
		for i, t := range r.tools {
			if r.mustCall == "" || r.mustCall == "*" || r.mustCall == t.name {
				p.calls = append(p.calls, call{
					id: fmt.Sprintf("call_%08x%02d", digest(r.text), i), name: t.name, arguments: sample(t.schema, text),
				})
			}
		}
	case r.schema.IsObject():
		text = sample(r.schema, text)
	case len(r.results) > 0:
		text = strings.Join(r.results, "\n")
	case words > 0:
		text = lorem(digest(r.text), words)
	}
	for _, c := range p.calls {
		p.output += int64(len(c.name)+len(c.arguments))/bytesPerToken + 1
	}
	if len(p.calls) > 0 {
		return p
	}
	p.pieces = pieces(text)
	if r.outputMax > 0 && int64(len(p.pieces)) > r.outputMax {
		p.pieces, p.length = p.pieces[:r.outputMax], true
	}
	p.output = int64(len(p.pieces))
	return p
}

// set takes one setting of a directive; one that makes no sense is none.
func (p *plan) set(name, value string, words *int) {
	duration, _ := time.ParseDuration(value)
	duration = min(max(duration, 0), latencyMax)
	number, _ := strconv.Atoi(value)
	number = max(number, 0)
	switch name {
	case "fail":
		if number >= 400 && number < 600 {
			p.fail = number
		}
	case "latency":
		if duration > 0 {
			p.latency = duration
		}
	case "pause":
		p.pause = duration
	case "cut":
		p.cut = number
	case "cached":
		p.cached = min(int64(number), p.input)
	case "words":
		*words = min(number, wordsMax)
	}
}

// pieces splits a text into what is taken for tokens: words with the space before them.
func pieces(text string) []string {
	var all []string
	begin := 0
	for i := 1; i < len(text); i++ {
		if text[i] == ' ' || text[i] == '\n' {
			all = append(all, text[begin:i])
			begin = i
		}
	}
	if text != "" {
		all = append(all, text[begin:])
	}
	return all
}

func digest(text string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(text))
	return h.Sum32()
}

var vocabulary = strings.Fields("amber birch cedar delta ember fjord grove harbor island juniper kestrel lagoon meadow north ocean pine quartz river stone timber umber valley willow yarrow zephyr")

func lorem(seed uint32, words int) string {
	var b strings.Builder
	for i := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		seed = seed*1664525 + 1013904223
		b.WriteString(vocabulary[(seed>>16)%uint32(len(vocabulary))])
	}
	return b.String()
}

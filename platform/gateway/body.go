package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// commandBody is a body that breaks no contract. It is decoded when somebody asks for
// what it holds, which most routes do not.
type commandBody struct {
	bytes   []byte
	decoded bool
	holds   any
}

// document returns what the body holds.
func (b *commandBody) document() any {
	if !b.decoded {
		b.holds, _ = decodeStrict(b.bytes) // what is certainly valid can be decoded
		b.decoded = true
	}
	return b.holds
}

// read checks a body against the contract. Nearly all pass at one look; what is wrong
// with the others, and whether anything is, takes another.
func (c *contract) read(body []byte) (*commandBody, *Problem) {
	if c.certain.Passes(body) {
		return &commandBody{bytes: body}, nil
	}
	document, problem := c.decode(body)
	return &commandBody{body, true, document}, problem
}

// decode checks a body against the contract and returns what it holds.
func (c *contract) decode(body []byte) (document any, problem *Problem) {
	document, fault := decodeStrict(body)
	if fault != nil {
		return nil, fault.problem()
	}
	if violations, total := c.check(document); total > 0 {
		p := newProblem(codeInvalidRequest, summary(violations, total))
		p.Errors = violations
		return document, p
	}
	return document, nil
}

// readCommand returns the body of a request that passed every check. It answers one
// that did not.
func (g *Gateway) readCommand(x *exchange, r *http.Request, c *contract) (body *commandBody, ok bool) {
	if types := r.Header["Content-Type"]; len(types) != 1 || !isJSON(types[0]) {
		x.Header().Set("Accept-Post", contentTypeJSON)
		x.fail(r, codeUnsupportedMediaType, "Send the body as application/json or as a type that ends with +json.")
		return nil, false
	}
	if r.Header.Get("Content-Encoding") != "" {
		x.Header().Set("Accept-Encoding", "identity")
		x.fail(r, codeUnsupportedEncoding, "Send the body without Content-Encoding.")
		return nil, false
	}
	data, problem := readBody(x.ResponseWriter, r, g.config.BodyBytesMax)
	if problem != nil {
		x.problem(r, problem)
		return nil, false
	}
	if body, problem = c.read(data); problem != nil {
		x.problem(r, problem)
		return nil, false
	}
	return body, true
}

func summary(violations []Violation, total int) string {
	switch {
	case total > len(violations):
		return fmt.Sprintf("Nothing was started: the body breaks its schema in %d places; the first %d are listed.", total, len(violations))
	case total > 1:
		return fmt.Sprintf("Nothing was started: the body breaks its schema in %d places.", total)
	case violations[0].Pointer == "":
		return "Nothing was started: the body " + violations[0].Detail + "."
	}
	return "Nothing was started: " + violations[0].Pointer + " " + violations[0].Detail + "."
}

// isJSON reports whether a Content-Type is application/json or something+json,
// whatever its parameters.
func isJSON(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	mediaType = strings.TrimSpace(mediaType)
	if strings.EqualFold(mediaType, contentTypeJSON) {
		return true
	}
	const suffix = "+json"
	slash := strings.IndexByte(mediaType, '/')
	return slash > 0 && len(mediaType)-slash > len(suffix)+1 &&
		strings.EqualFold(mediaType[len(mediaType)-len(suffix):], suffix)
}

// readBody reads at most limit bytes. The body stays with the message that
// carries it, so its buffer is not shared.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, *Problem) {
	if r.ContentLength > limit {
		return nil, bodyTooLarge(limit)
	}
	const firstBytesMax = 16 << 10 // what a sender only announces is not reserved
	body := make([]byte, 0, min(max(r.ContentLength, 511), firstBytesMax)+1)
	source := http.MaxBytesReader(w, r.Body, limit)
	for {
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
		n, err := source.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return body, nil
		default:
			return nil, bodyProblem(err, limit)
		}
	}
}

// bodyProblem tells why a request body could not be read.
func bodyProblem(err error, limit int64) *Problem {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return bodyTooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return newProblem(codeRequestTimeout, "Nothing was started: the body did not arrive in time.")
	}
	return newProblem(codeBodyUnreadable, "Nothing was started: the body was cut short or framed wrongly.")
}

func bodyTooLarge(limit int64) *Problem {
	return newProblem(codeBodyTooLarge, fmt.Sprintf("Nothing was started: at most %d bytes are accepted.", limit))
}

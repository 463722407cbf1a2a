package gateway

import (
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/trace"
)

const (
	contentTypeJSON = "application/json"
	noStore         = "no-store"
	// writeDeadlineRest is how often at most a write moves its deadline on.
	writeDeadlineRest = time.Second
)

// nosniff is shared by all answers: nobody changes the values of a header.
var nosniff = []string{"nosniff"}

// exchange is one request on its way through the gateway: the writer of its
// response, and what is told about it at the end.
type exchange struct {
	http.ResponseWriter
	endpoint *endpoint
	logger   *slog.Logger
	started  time.Time
	status   int // of the final response; 0 until it is written
	bytes    int64
	identity Identity // who sent it, once that is known
	checked  bool     // by a credential

	writeTimeout time.Duration
	deadlineSet  time.Time
}

// Unwrap lets [http.ResponseController] reach the server's writer.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// WriteHeader sends the header of a response.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && status >= http.StatusOK { // a 1xx is not the answer yet
		x.status = status
	}
	x.extendWriteDeadline()
	x.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the body.
func (x *exchange) Write(p []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	x.extendWriteDeadline()
	return x.write(p)
}

func (x *exchange) write(p []byte) (int, error) {
	n, err := x.ResponseWriter.Write(p)
	x.bytes += int64(n)
	return n, err
}

// extendWriteDeadline gives the next write its full time. The server takes the deadline
// away when the request has ended.
func (x *exchange) extendWriteDeadline() {
	now := time.Now()
	if now.Sub(x.deadlineSet) < min(writeDeadlineRest, x.writeTimeout/4) {
		return
	}
	x.deadlineSet = now
	_ = http.NewResponseController(x.ResponseWriter).SetWriteDeadline(now.Add(x.writeTimeout))
}

// json answers with a document that is already encoded.
func (x *exchange) json(status int, contentType string, body []byte) {
	h := x.Header()
	h["Content-Type"] = []string{contentType}
	h["X-Content-Type-Options"] = nosniff
	x.WriteHeader(status)
	_, _ = x.write(body) // the client has gone; net/http ends the connection
}

// problem answers with p, made complete with the trace and, unless it has one,
// the path as its instance.
func (x *exchange) problem(r *http.Request, p *Problem) {
	if sc := trace.SpanContextFromContext(r.Context()); sc.HasTraceID() {
		p.TraceID = sc.TraceID().String()
	}
	if p.Instance == "" {
		p.Instance = r.URL.EscapedPath()
	}
	body, err := encode(p)
	if err != nil { // cannot happen: a problem holds strings and numbers only
		x.WriteHeader(p.Status)
		return
	}
	x.Header().Set("Cache-Control", noStore)
	x.json(p.Status, contentTypeProblem, body)
}

// fail answers with a problem of the catalogue.
func (x *exchange) fail(r *http.Request, code, detail string) { x.problem(r, newProblem(code, detail)) }

// failLater is fail for a problem that is likely over in a second.
func (x *exchange) failLater(r *http.Request, code, detail string) {
	x.Header().Set("Retry-After", "1")
	x.fail(r, code, detail)
}

// failInternal logs err, which the client must not see, and answers with a
// problem that says nothing of it.
func (x *exchange) failInternal(r *http.Request, what string, err error) {
	x.logger.ErrorContext(r.Context(), "request failed",
		slog.String("what", what), slog.String("route", x.endpoint.id), slog.Any("error", err))
	x.fail(r, codeInternal, "The request could not be handled.")
}

package gateway

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// contentTypeStream is that of server-sent events.
const contentTypeStream = "text/event-stream"

// serveProgress answers GET /v1/operations/{id}/events with a stream of server-sent
// events: the whole operation whenever it has changed, under the id of its revision,
// and once more as the event done at its end. A client that comes again with
// Last-Event-ID is not told what it knows; after the end it is answered 204, which
// makes it stay away. A stream whose credential ends before says so.
func (g *Gateway) serveProgress(x *exchange, r *http.Request, s *snapshot) {
	text := r.PathValue("id")
	id, ok := parseOperationID(text)
	if !ok {
		x.fail(r, codeOperationNotFound, "")
		return
	}
	if !accepts(r.Header["Accept"], contentTypeStream) {
		x.fail(r, codeNotAcceptable, "This resource is sent as "+contentTypeStream+".")
		return
	}
	known := int64(-1)
	if last := lastEventID(r); last != "" {
		revision, err := strconv.ParseInt(last, 10, 64)
		if err != nil || revision < 0 {
			x.fail(r, codeQueryInvalid, "Last-Event-ID is none that this stream has sent.")
			return
		}
		known = revision
	}
	w := g.waiters.follow(text, g.config.FollowersMax)
	if w == nil {
		x.failLater(r, codeOverloaded, "Too many streams are open.")
		return
	}
	defer w.leave()
	op, ok := g.findOrFail(x, r, id, text, "What becomes of the operation cannot be told now.")
	if !ok {
		return
	}
	if op.Status.done() && op.Revision == known {
		x.WriteHeader(http.StatusNoContent)
		return
	}
	h := x.Header()
	h.Set("Content-Type", contentTypeStream)
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // nginx would keep the events to itself
	h.Set("Link", "<"+operationPath(text)+`>; rel="status"`)
	x.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	g.stream(&progress{exchange: x, control: http.NewResponseController(x), outcomes: s.table, known: known}, r, w, op)
}

// stream writes events until the operation is done, the client has gone or the
// gateway drains. A stream that drains ends without done, so the client comes again.
func (g *Gateway) stream(p *progress, r *http.Request, w *waiter, op Operation) {
	heartbeat := time.NewTicker(g.config.HeartbeatInterval)
	defer heartbeat.Stop()
	ctx, stop := g.until(r.Context())
	defer stop()
	if p.write("retry: 1000\n\n") != nil {
		return
	}
	for {
		if done, err := p.show(&op); done || err != nil {
			return
		}
		select {
		case op = <-w.seen:
		case <-heartbeat.C:
			if p.write(":\n\n") != nil {
				return
			}
		case <-ctx.Done():
			if why := context.Cause(ctx); errors.Is(why, errCredentialEnded) {
				_ = p.write(string(appendProblem(nil, streamProblem(why), r))) // the last word
			}
			return
		}
	}
}

// progress is a stream that is being written.
type progress struct {
	exchange *exchange
	control  *http.ResponseController
	outcomes *Table
	known    int64 // revision that the client has; -1 for none
}

// show writes the operation unless the client has it, and reports whether that was
// the end.
func (p *progress) show(op *Operation) (done bool, err error) {
	if op.Revision > p.known {
		p.known = op.Revision
		p.outcomes.outcomeOf(op.Command).present(op)
		data, err := encode(op)
		if err != nil {
			return true, err
		}
		if err := p.event("status", op.Revision, data); err != nil {
			return true, err
		}
	}
	if !op.Status.done() {
		return false, nil
	}
	p.outcomes.outcomeOf(op.Command).present(op)
	data, err := encode(op)
	if err != nil {
		return true, err
	}
	return true, p.event("done", op.Revision, data)
}

// event writes one event. Data is JSON in one line.
func (p *progress) event(name string, id int64, data []byte) error {
	var b bytes.Buffer
	b.WriteString("event: " + name + "\nid: " + strconv.FormatInt(id, 10) + "\ndata: ")
	b.Write(bytes.TrimSuffix(data, []byte("\n")))
	b.WriteString("\n\n")
	return p.write(b.String())
}

func (p *progress) write(text string) error {
	if _, err := p.exchange.Write([]byte(text)); err != nil {
		return err
	}
	return p.control.Flush()
}

// lastEventID returns where a client goes on: the header that browsers send, or the
// query parameter after.
func lastEventID(r *http.Request) string {
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		return last
	}
	return r.URL.Query().Get("after")
}

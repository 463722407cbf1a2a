package gateway

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/countermand/countermand/platform/follow"
)

const (
	// retryPause is after how long a client comes again that lost its stream.
	retryPause = time.Second
	// retrySpread spreads the clients of a gateway that drains over its replicas.
	retrySpread = 4 * time.Second
	// streamBufferMax is what a stream keeps of its buffer while nothing happens.
	streamBufferMax = 16 << 10
)

// serveSSE sends a stream of server-sent events: an unnamed event for each CloudEvent,
// whose id is the position after it. Positions also come without an event: a client
// that is cut off goes on from there. Before the server ends a stream it says why,
// with an event of another name, unless it drains.
func (g *Gateway) serveSSE(s *stream) {
	h := s.Header()
	h.Set("Content-Type", contentTypeStream)
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no")
	h.Set("X-Content-Type-Options", "nosniff")
	s.WriteHeader(http.StatusOK)
	if s.request.Method == http.MethodHead {
		return
	}
	ctx, stop := g.until(s.request.Context())
	defer stop()
	pace, control := g.beat(s.route), http.NewResponseController(s)
	known := s.follower.Position()
	buffer := fmt.Appendf(nil, "retry: %d\nid: %s\n\n", retryPause.Milliseconds(), known)
	for {
		_, err := s.Write(buffer)
		if err == nil {
			err = control.Flush()
		}
		if err != nil {
			s.gauge.end(errClientGone)
			return
		}
		if buffer = buffer[:0]; cap(buffer) > streamBufferMax {
			buffer = nil
		}
		items, err := pace.next(ctx, s.follower)
		switch {
		case err != nil:
			s.gauge.end(err)
			_, _ = s.Write(s.farewell(buffer, known, err)) // the last word; whether it arrives changes nothing
			return
		case len(items) > 0:
			buffer = appendFrames(buffer, items)
			known = items[len(items)-1].Position
			s.gauge.events.Add(float64(len(items)))
		default:
			buffer = append(buffer, ":\n"...)
			if at := s.follower.Position(); at != known {
				buffer = fmt.Appendf(buffer, "id: %s\n", at)
				known = at
			}
			buffer = append(buffer, '\n')
		}
	}
}

func appendFrames(b []byte, items []follow.Item) []byte {
	for i := range items {
		b = append(b, "id: "...)
		b = append(b, items[i].Position...)
		b = append(b, "\ndata: "...)
		b = append(b, items[i].JSON...)
		b = append(b, "\n\n"...)
	}
	return b
}

// farewell is what a stream ends with.
func (s *stream) farewell(b []byte, known string, why error) []byte {
	if at := s.follower.Position(); at != known && !errors.Is(why, follow.ErrOverrun) && !errors.Is(why, follow.ErrGone) {
		b = fmt.Appendf(b, "id: %s\n\n", at)
	}
	switch ending(why) {
	case "drained":
		spread := rand.N(retrySpread) //nolint:gosec // chance, not a secret
		return fmt.Appendf(b, "retry: %d\n\n", (retryPause + spread).Milliseconds())
	case "client", "idle":
		return b
	}
	return appendProblem(b, streamProblem(why), s.request)
}

// appendProblem appends an event with the name of the problem's code, which tells why
// a stream ends.
func appendProblem(b []byte, p *Problem, r *http.Request) []byte {
	p.Instance = r.URL.EscapedPath()
	document, err := encode(p)
	if err != nil { // cannot happen: a problem holds strings and numbers only
		return b
	}
	return fmt.Appendf(b, "event: %s\ndata: %s\n", p.Code, document) // which ends its own line
}

package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/filter"
	"github.com/countermand/countermand/platform/follow"
)

// takeMax is how many events a stream takes at once.
const takeMax = 256

// streamParameters are the query parameters of a stream beside those of its filter.
var streamParameters = []string{"after", "start", "limit"}

func (s *streamRoute) serve(g *Gateway, _ *snapshot) handler {
	return func(x *exchange, r *http.Request) { g.serveStream(x, r, s) }
}

// stream is one follower over HTTP.
type stream struct {
	*exchange
	route    *streamRoute
	request  *http.Request
	follower *follow.Follower
	gauge    *streamMetrics
}

// serveStream answers GET on a stream with the transport that the client asks for.
func (g *Gateway) serveStream(x *exchange, r *http.Request, s *streamRoute) {
	transport := s.choose(x, r)
	if transport == "" || !g.checkGuards(x, r, s.guards, requestInput(r, nil)) {
		return
	}
	if transport == transportSocket && !s.checkHandshake(x, r) {
		return
	}
	wanted, start, problem := s.query(r)
	if problem != nil {
		x.problem(r, problem)
		return
	}
	leave, problem := g.followers.enter(s, IdentityOf(r.Context()), g.config.FollowersMax)
	if problem != nil {
		x.Header().Set("Retry-After", "5")
		x.problem(r, problem)
		return
	}
	defer leave()
	ctx, cancel := context.WithTimeout(r.Context(), g.config.LookupTimeout)
	follower, err := g.hub.Follow(ctx, s.topic, start, wanted)
	cancel()
	if err != nil {
		g.failStream(x, r, err)
		return
	}
	defer follower.Close()
	one := &stream{exchange: x, route: s, request: r, follower: follower, gauge: g.metrics.stream(s.id, transport)}
	one.gauge.open.Inc()
	defer one.gauge.open.Dec()
	switch transport {
	case transportSSE:
		g.serveSSE(one)
	case transportPoll:
		g.servePoll(one)
	default:
		g.serveSocket(one)
	}
}

// choose returns the transport for a request; empty after answering that there is none.
func (s *streamRoute) choose(x *exchange, r *http.Request) string {
	x.Header().Add("Vary", "Accept")
	if asksUpgrade(r) {
		if slices.Contains(s.transports, transportSocket) {
			return transportSocket
		}
		x.fail(r, codeNotAcceptable, "This stream is not sent over WebSocket, but as "+s.offers()+".")
		return ""
	}
	for _, transport := range s.transports {
		if mediaType := streamMediaTypes[transport]; mediaType != "" && accepts(r.Header["Accept"], mediaType) {
			return transport
		}
	}
	if s.offers() == "" {
		x.Header().Set("Upgrade", "websocket")
		x.Header().Set("Connection", "Upgrade")
		x.fail(r, codeUpgradeRequired, "This stream is sent over WebSocket only, with the subprotocol "+socketProtocol+".")
		return ""
	}
	x.fail(r, codeNotAcceptable, "This stream is sent as "+s.offers()+".")
	return ""
}

var streamMediaTypes = map[string]string{transportSSE: contentTypeStream, transportPoll: mediaTypeEventBatch}

// offers lists the media types of the stream.
func (s *streamRoute) offers() string {
	var all []string
	for _, transport := range s.transports {
		if mediaType := streamMediaTypes[transport]; mediaType != "" {
			all = append(all, mediaType)
		}
	}
	return strings.Join(all, " or ")
}

// query reads what a client wants of the stream, and where it is to begin.
func (s *streamRoute) query(r *http.Request) (*filter.Filter, follow.Start, *Problem) {
	var start follow.Start
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, start, newProblem(codeQueryInvalid, "The query cannot be read.")
	}
	for _, name := range sortedKeys(query) {
		known := slices.Contains(streamParameters, name)
		if !known && !filter.IsParameter(name) {
			return nil, start, newProblem(codeQueryInvalid, "There is no parameter "+name+" here. "+streamQueryHelp)
		}
		if known && len(query[name]) > 1 {
			return nil, start, newProblem(codeQueryInvalid, "The parameter "+name+" comes twice.")
		}
	}
	always, err := s.filterFor(r)
	if err != nil { // the path holds what no attribute can be
		return nil, start, filterProblem(err)
	}
	chosen, err := filter.ParseQuery(query)
	if err != nil {
		return nil, start, filterProblem(err)
	}
	switch text := query.Get("start"); text {
	case "", "now":
	case "earliest":
		start.Earliest = true
	default:
		if start.Since, err = time.Parse(time.RFC3339, text); err != nil {
			return nil, start, newProblem(codeQueryInvalid, "start: want now, earliest or an RFC 3339 time.")
		}
	}
	if after := lastEventID(r); after != "" { // a browser that comes again keeps its query
		start = follow.Start{After: after}
	}
	return filter.All(always, chosen), start, nil
}

const streamQueryHelp = "A stream has after, start and limit, and for its filter types, filter, filters, and exact., prefix. and suffix. with the name of an attribute."

func filterProblem(err error) *Problem {
	p := newProblem(codeFilterInvalid, "")
	for _, fault := range compileFaults(err) {
		p.Errors = append(p.Errors, Violation{Pointer: fault.Pointer, Detail: fault.Detail})
	}
	p.Errors = p.Errors[:min(len(p.Errors), violationsMax)]
	return p
}

// compileFaults returns the faults of a filter.
func compileFaults(err error) filter.CompileError {
	faults, _ := errors.AsType[filter.CompileError](err)
	return faults
}

// streamProblem tells why a stream cannot begin or go on.
func streamProblem(err error) *Problem {
	switch {
	case errors.Is(err, errCredentialEnded):
		return newProblem(codeCredentialEnded, "It has expired or been revoked. Go on after the last event with another one.")
	case errors.Is(err, follow.ErrPosition):
		return newProblem(codePositionInvalid, "It is none that this stream has sent. Leave it out to begin with what comes from now on, or begin with start=earliest or a time.")
	case errors.Is(err, follow.ErrGone):
		return newProblem(codePositionGone, "Events after it may have been deleted. Begin with start=earliest, and ask elsewhere for what is missing.")
	case errors.Is(err, follow.ErrOverrun):
		return newProblem(codeOverrun, "Events came faster than they were read. Nothing is lost: go on after the last one.")
	}
	return newProblem(codeEventsUnavailable, "Go on after the last event, or begin again, in a moment.")
}

func (g *Gateway) failStream(x *exchange, r *http.Request, err error) {
	p := streamProblem(err)
	switch {
	case errors.Is(err, errCredentialEnded):
		x.Header().Set("Www-Authenticate", challengeInvalid)
	case p.Retriable:
		if r.Context().Err() == nil && !errors.Is(err, follow.ErrClosed) {
			g.logger.WarnContext(r.Context(), "stream cannot begin", "route", x.endpoint.id, "error", err)
		}
		x.Header().Set("Retry-After", "1")
	}
	x.problem(r, p)
}

// errDraining ends the wait of a stream when the gateway drains.
var errDraining = errors.New("the gateway drains")

// errCredentialEnded ends a stream whose credential is no longer taken.
var errCredentialEnded = errors.New("the credential has ended")

// ending is why a stream ends, as a label.
func ending(err error) string {
	switch {
	case errors.Is(err, errDraining), errors.Is(err, follow.ErrClosed):
		return "drained"
	case errors.Is(err, errCredentialEnded):
		return "credential"
	case errors.Is(err, follow.ErrOverrun):
		return "overrun"
	case errors.Is(err, follow.ErrGone):
		return "gone"
	case errors.Is(err, errIdle):
		return "idle"
	case errors.Is(err, context.Canceled), errors.Is(err, errClientGone):
		return "client"
	case errors.Is(err, broker.ErrUnavailable):
		return "unavailable"
	}
	return "error"
}

var (
	errIdle       = errors.New("nothing has happened for long")
	errClientGone = errors.New("the client has gone")
)

// beat is the pace of one stream: when to send a heartbeat, and when to give up.
type beat struct {
	every, idle time.Duration
	last        time.Time // event
}

func (g *Gateway) beat(s *streamRoute) *beat {
	b := &beat{every: s.heartbeat, idle: s.idle, last: time.Now()}
	if b.every == 0 {
		b.every = g.config.HeartbeatInterval
	}
	return b
}

// next returns the next events; none when it is time for a heartbeat. The error is
// why the stream ends.
func (b *beat) next(ctx context.Context, f *follow.Follower) ([]follow.Item, error) {
	short, cancel := context.WithTimeout(ctx, b.every)
	defer cancel()
	items, err := f.Next(short, takeMax)
	switch {
	case err == nil:
		b.last = time.Now()
		return items, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		if b.idle > 0 && time.Since(b.last) >= b.idle {
			return nil, errIdle
		}
		return nil, nil
	}
	return nil, err
}

// until returns a context that ends with the request, when the gateway drains or when
// the credential of the request is no longer taken.
func (g *Gateway) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(g.drain, func() { cancel(errDraining) })
	forget := IdentityOf(ctx).whenEnded(ctx, g.config.RecheckInterval, func() { cancel(errCredentialEnded) })
	return ctx, func() {
		stop()
		cancel(nil)
		forget()
	}
}

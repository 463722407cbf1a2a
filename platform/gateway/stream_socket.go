package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/follow"
)

const (
	// socketProtocol is the subprotocol of the CloudEvents WebSocket binding: each text
	// message is an event in the JSON format.
	socketProtocol = "cloudevents.json"
	// positionExtension carries the position after an event: the binding has no other
	// place for it.
	positionExtension = "streamposition"
	// socketQueueMax is how many events of a client may wait for those before them to be
	// stored. They are then stored together.
	socketQueueMax = 64
	// These are close codes for applications (RFC 6455 §7.4.2), after the statuses of
	// HTTP.
	statusCredentialEnded websocket.StatusCode = 4401
	statusGone            websocket.StatusCode = 4410
	statusUnavailable     websocket.StatusCode = 4503
)

// asksUpgrade reports whether a request wants to become a WebSocket.
func asksUpgrade(r *http.Request) bool {
	return slices.ContainsFunc(r.Header["Upgrade"], func(v string) bool { return strings.EqualFold(strings.TrimSpace(v), "websocket") })
}

// checkHandshake answers what a WebSocket must not begin with.
func (s *streamRoute) checkHandshake(x *exchange, r *http.Request) bool {
	var offered []string
	for _, line := range r.Header["Sec-Websocket-Protocol"] {
		for name := range strings.SplitSeq(line, ",") {
			offered = append(offered, strings.TrimSpace(name))
		}
	}
	switch {
	case !slices.Contains(offered, socketProtocol):
		x.fail(r, codeSubprotocolRequired, "Offer the subprotocol "+socketProtocol+" in Sec-WebSocket-Protocol.")
	case !s.allowsOrigin(r):
		x.fail(r, codeOriginRefused, "Pages of this origin may not open this stream.")
	default:
		return true
	}
	return false
}

// allowsOrigin reports whether a page may open the stream: one of the same host, or of
// an origin that the route names. What is no page sends no Origin.
func (s *streamRoute) allowsOrigin(r *http.Request) bool {
	values := r.Header["Origin"]
	if len(values) == 0 {
		return true
	}
	u, err := url.Parse(values[0])
	if err != nil || len(values) > 1 {
		return false
	}
	return u.Host != "" && strings.EqualFold(u.Host, r.Host) ||
		slices.ContainsFunc(s.origins, func(origin string) bool { return strings.EqualFold(origin, values[0]) })
}

// serveSocket sends events over a WebSocket, and takes events in when the route says by
// which other it does.
func (g *Gateway) serveSocket(s *stream) {
	g.sockets.Add(1)
	defer g.sockets.Done()
	conn, err := websocket.Accept(s.exchange, s.request, &websocket.AcceptOptions{
		Subprotocols:       []string{socketProtocol},
		InsecureSkipVerify: true, // checkHandshake has looked at the origin
	})
	if err != nil {
		return // it was answered
	}
	s.status = http.StatusSwitchingProtocols
	conn.SetReadLimit(g.config.BodyBytesMax)
	// Whoever reads must not be stopped by draining: the library would drop the
	// connection without saying goodbye.
	reading, gone := context.WithCancelCause(s.request.Context())
	defer gone(nil)
	ctx, stop := g.until(reading)
	defer stop()
	var taking sync.WaitGroup
	messages := make(chan []byte, socketQueueMax)
	taking.Go(func() { gone(s.receive(reading, conn, messages)) })
	taking.Go(func() { g.takeIn(s, conn, messages) })
	why := g.sendOut(ctx, s, conn)
	s.gauge.end(why)
	code, reason := s.goodbye(why)
	_ = conn.Close(code, reason) // the client may have gone
	gone(why)
	taking.Wait()
}

// sendOut writes events until the stream ends, and returns why.
func (g *Gateway) sendOut(ctx context.Context, s *stream, conn *websocket.Conn) error {
	pace := g.beat(s.route)
	for {
		items, err := pace.next(ctx, s.follower)
		if err != nil {
			return err
		}
		for i := range items {
			if err := g.write(s, conn, withPosition(&items[i])); err != nil {
				return errClientGone
			}
			s.gauge.events.Inc()
		}
		if len(items) > 0 {
			continue
		}
		pinging, cancel := context.WithTimeout(ctx, g.config.WriteTimeout)
		err = conn.Ping(pinging)
		cancel()
		if err != nil && ctx.Err() == nil {
			return errClientGone
		}
	}
}

// write sends one message within the time for a write, whatever else ends.
func (g *Gateway) write(s *stream, conn *websocket.Conn, message []byte) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.request.Context()), g.config.WriteTimeout)
	defer cancel()
	return conn.Write(ctx, websocket.MessageText, message)
}

// withPosition returns an event with its position as an extension.
func withPosition(item *follow.Item) []byte {
	b := make([]byte, 0, len(item.JSON)+len(item.Position)+len(positionExtension)+8)
	b = append(b, item.JSON[:len(item.JSON)-1]...)
	b = append(b, `,"`+positionExtension+`":"`...)
	b = append(b, item.Position...)
	return append(b, '"', '}')
}

// goodbye is how a socket is closed.
func (s *stream) goodbye(why error) (websocket.StatusCode, string) {
	switch ending(why) {
	case "drained":
		return websocket.StatusGoingAway, "go on elsewhere after the last position"
	case "credential":
		return statusCredentialEnded, codeCredentialEnded
	case "overrun":
		return websocket.StatusTryAgainLater, "too slow: go on after the last position"
	case "gone":
		return statusGone, codePositionGone
	case "idle":
		return websocket.StatusNormalClosure, "idle"
	case "client":
		return websocket.StatusNormalClosure, ""
	}
	return statusUnavailable, codeEventsUnavailable
}

// receive reads messages until the client has gone or sends what it must not.
func (s *stream) receive(ctx context.Context, conn *websocket.Conn, messages chan<- []byte) error {
	defer close(messages)
	for {
		kind, message, err := conn.Read(ctx)
		if err != nil {
			return errClientGone
		}
		if s.route.publishTo == nil {
			_ = conn.Close(websocket.StatusPolicyViolation, "this stream takes no events")
			return errClientGone
		}
		if kind != websocket.MessageText {
			_ = conn.Close(websocket.StatusUnsupportedData, "events are text messages")
			return errClientGone
		}
		select {
		case messages <- message:
		case <-ctx.Done():
			return errClientGone
		}
	}
}

// takeIn stores what a client sends, and answers each message with an event that says
// what became of it, in their order.
func (g *Gateway) takeIn(s *stream, conn *websocket.Conn, messages <-chan []byte) {
	for first := range messages {
		batch := [][]byte{first}
		for queued := true; queued && len(batch) < socketQueueMax; {
			select {
			case message, ok := <-messages:
				if queued = ok; ok {
					batch = append(batch, message)
				}
			default:
				queued = false
			}
		}
		for _, became := range g.acceptMessages(s, batch) {
			// A client that has gone sends again what it has no answer to.
			_ = g.write(s, conn, s.answer(&became))
		}
	}
}

// acceptMessages checks each message as a route of kind events does, and who sends it,
// and stores those that pass, together.
func (g *Gateway) acceptMessages(s *stream, batch [][]byte) []acceptedEvent {
	route, r := s.route.publishTo, s.request
	lacking := route.demand.lacks(IdentityOf(r.Context()))
	became := make([]acceptedEvent, len(batch))
	var passed []incoming
	var places []int
	for i, message := range batch {
		all, problem := readEvents(http.Header{"Content-Type": {mediaTypeEvent}}, message)
		switch {
		case problem != nil:
		case lacking != nil:
			problem = lacking
		default:
			problem = route.check(r, all, func(one *guard, err error) { g.untold(s.exchange, r, one, err) })
		}
		if len(all) == 1 {
			became[i].ID, became[i].Source = all[0].event.ID, all[0].event.Source
		}
		if problem != nil {
			became[i].Status, became[i].Problem = problem.Status, problem
			continue
		}
		passed, places = append(passed, all[0]), append(places, i)
	}
	if len(passed) == 0 {
		return became
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), g.config.PublishTimeout)
	defer cancel()
	for i, receipt := range g.publishEvents(ctx, route, passed) {
		a := &became[places[i]]
		a.Status, a.Duplicate = http.StatusAccepted, receipt.Duplicate
		if receipt.Err != nil {
			a.Problem = eventProblem(receipt.Err)
			a.Status, a.Duplicate = a.Problem.Status, false
			g.logger.WarnContext(ctx, "event was not confirmed by the broker", slog.String("route", s.route.id),
				slog.String("event_id", a.ID), slog.Any("error", receipt.Err))
		}
	}
	return became
}

// The types of what a client is answered to an event that it sends over a WebSocket.
const (
	typeAccepted = "countermand.event.accepted.v1"
	typeRefused  = "countermand.event.refused.v1"
)

// answer is the event that tells what became of another.
func (s *stream) answer(became *acceptedEvent) []byte {
	e := events.Event{
		ID: events.NewID(), Source: s.request.URL.EscapedPath(), Type: typeAccepted, Subject: became.ID, CausationID: became.ID,
		Time: time.Now(), DataContentType: events.ContentTypeJSON,
	}
	if became.Problem != nil {
		e.Type = typeRefused
	}
	var err error
	if e.Data, err = encode(became); err != nil { // cannot happen: it holds strings and numbers only
		e.Data = []byte(`{"status":` + strconv.Itoa(became.Status) + `}`)
	}
	return follow.Encode(&e)
}

package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/countermand/countermand/platform/follow"
)

const (
	pollEventsDefault = 100
	pollEventsMax     = 1000
	// pollBytesMax bounds one answer, beyond its first event.
	pollBytesMax = 4 << 20
)

// servePoll answers with the events after the client's position as a CloudEvents
// batch, or 204 when there are none within the wait that it prefers. Where to go on
// stands in Last-Event-ID and in the link to the next page, also with a 204.
func (g *Gateway) servePoll(s *stream) {
	received := time.Now()
	limit := pollEventsDefault
	if text := s.request.URL.Query().Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > pollEventsMax {
			s.fail(s.request, codeQueryInvalid, "limit: want a number from 1 to "+strconv.Itoa(pollEventsMax)+".")
			return
		}
	}
	prefer := parsePrefer(s.request.Header["Prefer"])
	if why := prefer.refusal(g.config.WaitMax); why != "" {
		s.fail(s.request, codePreferenceRefused, why)
		return
	}
	wait, applied := prefer.within(0, g.config.WaitMax)
	before := s.follower.Position()
	items, err := g.poll(s, received.Add(wait), limit)
	if err != nil {
		g.failStream(s.exchange, s.request, err)
		return
	}
	position, body := s.follower.Position(), []byte{'['}
	for i := range items {
		if i > 0 && len(body)+len(items[i].JSON) > pollBytesMax {
			break // the rest comes with the next page
		}
		if i > 0 {
			body = append(body, ',')
		}
		body, position = append(body, items[i].JSON...), items[i].Position
		s.gauge.events.Inc()
	}
	if position == "" {
		position = before
	}
	h := s.Header()
	h.Set("Cache-Control", noStore)
	h.Add("Vary", "Prefer")
	h.Set("Last-Event-ID", position)
	h.Set("Link", "<"+s.nextPage(position)+`>; rel="next"`)
	if applied != "" {
		h.Set("Preference-Applied", applied)
	}
	if len(items) == 0 {
		s.WriteHeader(http.StatusNoContent)
		return
	}
	s.json(http.StatusOK, mediaTypeEventBatch, append(body, ']'))
}

// poll returns events as soon as there are some, and with them what else is there; none
// when time is up.
func (g *Gateway) poll(s *stream, until time.Time, limit int) ([]follow.Item, error) {
	ctx, stop := g.until(s.request.Context())
	defer stop()
	reading, cancel := context.WithTimeout(ctx, g.config.LookupTimeout)
	defer cancel()
	items, err := s.follower.Ready(reading, limit)
	if len(items) == 0 && err == nil && time.Until(until) > 0 {
		waiting, cancel := context.WithDeadline(ctx, until)
		items, err = s.follower.Next(waiting, limit)
		cancel()
	}
	for len(items) > 0 && len(items) < limit {
		more, err := s.follower.Ready(reading, limit-len(items))
		if len(more) == 0 || err != nil { // which comes again with the next page
			return items, nil
		}
		items = append(items, more...)
	}
	if errors.Is(context.Cause(ctx), errCredentialEnded) {
		return nil, errCredentialEnded
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(context.Cause(ctx), errDraining) {
		return items, nil // what was passed over meanwhile is in the position
	}
	return items, err
}

// nextPage is the request that goes on after the position.
func (s *stream) nextPage(position string) string {
	query := s.request.URL.Query()
	query.Del("start")
	query.Set("after", position)
	return (&url.URL{Path: s.request.URL.Path, RawPath: s.request.URL.RawPath, RawQuery: query.Encode()}).String()
}

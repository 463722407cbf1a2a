package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/countermand/countermand/platform/ai/wire"
)

var (
	errTotal  = errors.New("the call took too long")
	errSilent = errors.New("the upstream said nothing for too long")
)

const (
	statusOverloaded = 529 // of Anthropic
	retryAfterMax    = time.Hour
)

// failure is how an attempt failed.
type failure struct {
	outcome Outcome
	err     *wire.Error
	again   bool // another attempt may do better
	leave   bool // but not at this deployment
	free    bool // it has certainly cost nothing
	blame   bool // the deployment is to blame, for its breaker
}

func timedOut(message string) *wire.Error {
	return &wire.Error{Status: http.StatusGatewayTimeout, Code: "upstream_timeout", Message: message}
}

func tooLong() *wire.Error { return timedOut("The upstream took too long.") }

// broken tells of an attempt whose connection failed. left says that the request was,
// or may have been, sent.
func broken(ctx context.Context, err error, left bool) failure {
	cause := context.Cause(ctx)
	var network net.Error
	switch {
	case errors.Is(cause, errTotal):
		return failure{outcome: TimedOut, err: tooLong(), free: !left, blame: true}
	case errors.Is(cause, errSilent):
		return failure{outcome: TimedOut, err: timedOut("The upstream was silent for too long."), again: true, free: !left, blame: true}
	case ctx.Err() != nil:
		return failure{outcome: ClientGone, err: &wire.Error{Status: statusClientGone, Code: "client_gone", Message: "The client has gone."}, free: !left}
	case !left:
		return failure{
			outcome: NotSent, again: true, free: true, blame: true,
			err: &wire.Error{Status: http.StatusBadGateway, Code: "upstream_unreachable", Message: "The upstream cannot be reached."},
		}
	case errors.As(err, &network) && network.Timeout():
		return failure{outcome: TimedOut, err: timedOut("The upstream was silent for too long."), again: true, blame: true}
	}
	return failure{outcome: WasCut, err: wire.Cut(), again: true, blame: true}
}

// statusClientGone is what logs say of a request whose client did not wait.
const statusClientGone = 499

// refused tells of an answer that is no success.
func (r *run) refused(e *wire.Error, h http.Header) failure {
	ring, now := r.deployment.provider.keys, time.Now()
	e.Message = ring.redact(e.Message)
	e.Code, e.Param = ring.redact(e.Code), ring.redact(e.Param)
	e.RetryAfter = retryAfter(h)
	switch status := e.Status; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusPaymentRequired:
		ring.rest(r.slot.key, now, refusedRest)
		return failure{outcome: KeyRefused, again: true, free: true, err: &wire.Error{
			Status: http.StatusBadGateway, Code: "upstream_key_refused",
			Message: "The upstream does not take the key of this gateway: it is wrong, or its account has no money left. An operator must look at it.",
		}}
	case status == http.StatusTooManyRequests:
		ring.rest(r.slot.key, now, max(e.RetryAfter, limitedRest))
		return failure{outcome: Limited, again: true, free: true, err: e}
	case status == http.StatusNotFound:
		return failure{outcome: Refused, again: true, leave: true, free: true, err: e}
	case status == http.StatusRequestTimeout || status == http.StatusConflict || status == http.StatusTooEarly:
		e.Status = http.StatusBadGateway
		return failure{outcome: Failed, again: true, free: true, err: e}
	case status == http.StatusServiceUnavailable || status == statusOverloaded:
		e.Status = http.StatusServiceUnavailable
		return failure{outcome: Failed, again: true, free: true, blame: true, err: e}
	case status == http.StatusGatewayTimeout:
		return failure{outcome: Failed, again: true, blame: true, err: e}
	case status >= http.StatusInternalServerError:
		e.Status = http.StatusBadGateway
		return failure{outcome: Failed, again: true, blame: true, err: e}
	case status < http.StatusBadRequest: // a redirection, which would take the key elsewhere
		return r.wrong(wire.BadAnswer("it sends the request elsewhere"))
	}
	return failure{outcome: Refused, free: true, err: e}
}

// wrong tells of an answer that cannot be read, or that tells of an error in its midst.
func (r *run) wrong(err error) failure {
	var told *wire.Error
	if !errors.As(err, &told) {
		return failure{outcome: BadAnswer, again: true, blame: true, err: wire.BadAnswer("its form is wrong")}
	}
	ring := r.deployment.provider.keys
	told.Message, told.Code, told.Param = ring.redact(told.Message), ring.redact(told.Code), ring.redact(told.Param)
	if told.Status < http.StatusInternalServerError && told.Status != http.StatusTooManyRequests {
		return failure{outcome: Refused, err: told}
	}
	return failure{outcome: Failed, again: true, blame: true, err: told}
}

func retryAfter(h http.Header) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms > 0 {
		return min(time.Duration(ms)*time.Millisecond, retryAfterMax)
	}
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds > 0 {
		return min(time.Duration(min(seconds, retryAfterMax.Seconds())*float64(time.Second)), retryAfterMax)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(time.Until(at), 0), retryAfterMax)
	}
	return 0
}

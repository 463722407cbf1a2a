package webhook

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// verdict is what an answer means for a delivery.
type verdict string

// The verdicts. They are the label of a metric.
const (
	accepted verdict = "accepted"
	retry    verdict = "retry"   // later, by backoff
	refused  verdict = "refused" // never: it becomes a dead letter
	gone     verdict = "gone"    // the sink wants nothing any more
)

// judge tells what a status means. It follows the CloudEvents HTTP WebHook
// specification for 410 and 429, and Knative's table for the others. ill reports that
// the sink itself is unwell, so that the next delivery need not be tried at once.
func judge(status int) (v verdict, ill bool) {
	switch {
	case status >= 200 && status < 300:
		return accepted, false
	case status == http.StatusGone:
		return gone, false
	case status == http.StatusTooManyRequests, status >= 500:
		return retry, true
	case status == http.StatusRequestTimeout:
		return retry, true
	case status == http.StatusNotFound, status == http.StatusConflict, status == http.StatusTooEarly:
		return retry, false
	}
	return refused, false // redirects are not followed, and what it says no to it will not like better later
}

// backoff returns how long to rest after an attempt: base times 3 for each one before,
// at most limit, and up to half of it more or less, so that what failed together does not
// come back together.
func backoff(base, limit time.Duration, attempt int) time.Duration {
	d := base
	for range attempt - 1 {
		if d *= 3; d >= limit {
			d = limit
			break
		}
	}
	return d/2 + rand.N(d+1) //nolint:gosec // spread, not secrecy
}

// retryAfter returns what a Retry-After header asks for, at most limit; 0 when there is
// none that can be read.
func retryAfter(value string, now time.Time, limit time.Duration) time.Duration {
	if value == "" {
		return 0
	}
	var d time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return max(0, min(d, limit))
}

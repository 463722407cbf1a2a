package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/egress"
)

// outcome is what became of one attempt.
type outcome struct {
	delivery   uuid.UUID
	number     int
	began      time.Time
	took       time.Duration
	status     int    // 0: there was no answer
	failure    string // why, in words that a subscriber may read
	result     string // label of a metric
	verdict    verdict
	ill        bool
	rest       time.Duration // before the next attempt
	retryAfter time.Duration // what the sink asked for
}

const (
	userAgent = "countermand-webhook/1"
	// answerBytesMax is how much of an answer is read, so that its connection can be
	// used again. None of it is kept: it may come from where the subscriber could not
	// have looked itself.
	answerBytesMax = 4 << 10
	errorBytesMax  = 300
)

// deliver sends one delivery and records what became of it.
func (k *sink) deliver(ctx context.Context, d *due) result {
	s := k.sender
	if !s.slots.acquire(ctx, k.row.tenant) {
		return result{id: d.id}
	}
	s.store.metrics.inFlight.Inc()
	o := k.attempt(ctx, d)
	s.store.metrics.inFlight.Dec()
	s.slots.release(k.row.tenant)
	s.store.metrics.attempts.WithLabelValues(o.result).Inc()
	s.store.metrics.seconds.Observe(o.took.Seconds())
	s.keep(ctx, k.row, &o)
	return result{d.id, true, o}
}

// attempt makes the request. It is finished even when ctx ends: what is sent is sent.
func (k *sink) attempt(ctx context.Context, d *due) outcome {
	o := outcome{delivery: d.id, number: d.attempts + 1, began: time.Now(), verdict: retry}
	request, err := k.request(context.WithoutCancel(ctx), d, o.began)
	if err != nil {
		o.failure, o.result, o.verdict = clip(err.Error(), errorBytesMax), "unsendable", refused
		return o
	}
	var response *http.Response
	if err = k.sender.config.Guard.CheckURL(k.plan.sink); err == nil { // which may have changed since the subscription was made
		response, err = k.sender.client.Do(request)
	}
	o.took = time.Since(o.began)
	if err != nil {
		o.failure, o.result = explain(err)
		o.ill = true
	} else {
		_, _ = io.CopyN(io.Discard, response.Body, answerBytesMax) // whatever it says
		_ = response.Body.Close()
		o.status = response.StatusCode
		o.verdict, o.ill = judge(o.status)
		o.result = statusClass(o.status)
		if o.verdict != accepted {
			o.failure = "the sink answered " + strconv.Itoa(o.status) + " " + http.StatusText(o.status)
		}
		if o.status == http.StatusTooManyRequests || o.status == http.StatusServiceUnavailable {
			o.retryAfter = retryAfter(response.Header.Get("Retry-After"), time.Now(), k.sender.config.RetryAfterMax)
		}
	}
	if o.verdict == retry {
		o.rest = max(o.retryAfter, backoff(k.sender.config.RetryBase, k.sender.config.RetryMax, d.tried+1))
	}
	return o
}

// outside returns the event without what stays in the house: who the parties are, and
// how replies find their way.
func outside(e events.Event) events.Event {
	e.ReplyTo, e.Undoes = "", ""
	e.Extensions = maps.Clone(e.Extensions)
	for _, name := range []string{events.TenantExtension, events.ClientExtension, events.UndoesTime} {
		delete(e.Extensions, name)
	}
	return e
}

// request makes the request of a delivery.
func (k *sink) request(ctx context.Context, d *due, now time.Time) (*http.Request, error) {
	e := outside(d.event)
	header := make(http.Header)
	for name, value := range k.plan.headers {
		header.Set(name, value)
	}
	body := e.Data
	if k.plan.structured {
		ce, err := e.CloudEvent()
		if err != nil {
			return nil, fmt.Errorf("event %s: %w", e.ID, err)
		}
		if body, err = json.Marshal(ce); err != nil {
			return nil, fmt.Errorf("event %s: %w", e.ID, err)
		}
		header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	} else {
		events.HTTP.Encode(&e, header.Set)
	}
	header.Set("User-Agent", userAgent)
	header.Set("WebHook-Request-Origin", k.sender.config.Origin)
	if authorization := k.row.credential.header(); authorization != "" {
		header.Set("Authorization", authorization)
	}
	if err := sign(header, k.row.secrets, d.id.String(), now, body); err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, k.plan.sink.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("request to the sink: %w", err)
	}
	request.Header = header
	return request, nil
}

// explain says why there was no answer, without what only this machine may know.
func explain(err error) (text, result string) {
	var (
		failed  *url.Error
		timeout net.Error
		name    *net.DNSError
		record  tls.RecordHeaderError
		alert   tls.AlertError
		cert    *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		dial    *net.OpError
	)
	if errors.As(err, &failed) {
		err = failed.Err
	}
	switch {
	case errors.Is(err, egress.ErrForbidden):
		return "the sink is at an address that is not allowed", "forbidden"
	case errors.As(err, &name):
		return "the name of the sink cannot be resolved", "dns"
	case errors.As(err, &cert), errors.As(err, &unknown), errors.As(err, &record), errors.As(err, &alert):
		return clip("TLS: "+err.Error(), errorBytesMax), "tls"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "the sink did not answer in time", "timeout"
	case errors.As(err, &dial) && dial.Op == "dial":
		return clip("no connection to the sink: "+dial.Err.Error(), errorBytesMax), "connect"
	}
	return clip("the sink broke off: "+err.Error(), errorBytesMax), "broken"
}

func statusClass(status int) string {
	switch status {
	case http.StatusGone, http.StatusTooManyRequests:
		return strconv.Itoa(status)
	}
	return strconv.Itoa(status/100) + "xx"
}

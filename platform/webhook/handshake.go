package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// CallbackPath is where sinks grant permission asynchronously, below Config.PublicURL.
// The token follows it.
const CallbackPath = "/v1/webhook-grants/"

// askRest is how long to wait between questions to a sink that does not agree.
const askRestMax = time.Hour

// consent is what a sink says to the question whether it agrees.
type consent struct {
	granted bool
	rate    *int   // per minute; nil: any
	refused bool   // it was there, and did not agree
	reason  string // why not
}

// ask asks the sink of a subscription for permission (CloudEvents HTTP WebHook, §4), and
// stores what it says. It returns false when nothing could be stored.
func (s *Sender) ask(ctx context.Context, r *row) bool {
	var token string
	if s.config.PublicURL != "" {
		token = base64.RawURLEncoding.EncodeToString(randomBytes(32))
		digest := sha256.Sum256([]byte(token))
		// Stored before it is told: the sink may call back at once. What it says counts
		// for the subscription as it is asked about, not for what was made of it since.
		tag, err := s.store.pool.Exec(context.WithoutCancel(ctx),
			"update webhook_subscription set callback = $3 where id = $1 and revision = $2", r.id, r.revision, digest[:])
		if err != nil {
			s.config.Logger.WarnContext(ctx, "webhook sink is not asked for permission", "subscription", r.id, "error", err)
		}
		if err != nil || tag.RowsAffected() == 0 {
			return false
		}
	}
	a := s.options(ctx, r, token)
	_, err := s.store.change(context.WithoutCancel(ctx), Scope{Everyone: true}, r.id.String(), r.revision, func(tx pgx.Tx, now *row) error {
		if now.askAt == nil {
			return ErrState // the callback was faster
		}
		return s.answered(ctx, tx, now, a)
	})
	if err != nil {
		// Somebody has changed it meanwhile, and then it is asked anew if it must be.
		s.config.Logger.DebugContext(ctx, "answer of a webhook sink is not stored", "subscription", r.id, "error", err)
	}
	return err == nil
}

// options makes the validation request.
func (s *Sender) options(ctx context.Context, r *row, token string) consent {
	p, err := r.full().compile(s.config.Guard, nil)
	if err != nil {
		return consent{reason: clip(err.Error(), errorBytesMax)}
	}
	request, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodOptions, p.sink.String(), http.NoBody)
	if err != nil {
		return consent{reason: clip(err.Error(), errorBytesMax)}
	}
	h := request.Header
	h.Set("User-Agent", userAgent)
	h.Set("WebHook-Request-Origin", s.config.Origin)
	if p.rate > 0 {
		h.Set("WebHook-Request-Rate", strconv.Itoa(p.rate))
	}
	if token != "" {
		h.Set("WebHook-Request-Callback", strings.TrimRight(s.config.PublicURL, "/")+CallbackPath+token)
	}
	if authorization := r.credential.header(); authorization != "" {
		h.Set("Authorization", authorization)
	}
	response, err := s.client.Do(request)
	if err != nil {
		text, result := explain(err)
		s.store.metrics.handshakes.WithLabelValues(result).Inc()
		return consent{reason: text}
	}
	_, _ = io.CopyN(io.Discard, response.Body, answerBytesMax)
	_ = response.Body.Close()
	a := readAnswer(response, s.config.Origin)
	label := "withheld"
	if a.granted {
		label = "granted"
	}
	s.store.metrics.handshakes.WithLabelValues(label).Inc()
	return a
}

// readAnswer reads the validation response. Its status says nothing about consent, by
// the specification; only the header does.
func readAnswer(response *http.Response, origin string) consent {
	allowed := strings.TrimSpace(response.Header.Get("WebHook-Allowed-Origin"))
	switch {
	case allowed == "":
		return consent{
			refused: response.StatusCode < 500 && response.StatusCode != http.StatusTooManyRequests,
			reason:  fmt.Sprintf("the sink answered OPTIONS with %d and without WebHook-Allowed-Origin", response.StatusCode),
		}
	case allowed != "*" && !strings.EqualFold(allowed, origin):
		return consent{refused: true, reason: clip("the sink allows the origin "+strconv.Quote(allowed)+", not "+origin, errorBytesMax)}
	}
	rate, err := parseRate(response.Header.Get("WebHook-Allowed-Rate"))
	if err != nil {
		return consent{refused: true, reason: err.Error()}
	}
	return consent{granted: true, rate: rate}
}

// parseRate reads WebHook-Allowed-Rate: requests per minute; nil is any number.
func parseRate(text string) (*int, error) {
	if text = strings.TrimSpace(text); text == "" || text == "*" {
		return nil, nil
	}
	parsed, err := strconv.ParseInt(text, 10, 32)
	if errors.Is(err, strconv.ErrRange) { // then it is the highest that can be stored, or the lowest
		err = nil
	}
	if err != nil || parsed < 1 {
		return nil, fmt.Errorf("the sink's WebHook-Allowed-Rate is neither * nor a number from 1: %s", clip(strconv.Quote(text), 40))
	}
	rate := int(parsed)
	return &rate, nil
}

// answered applies what a sink has said to its subscription.
func (s *Sender) answered(ctx context.Context, tx pgx.Tx, r *row, a consent) error {
	now := time.Now()
	again := func(in time.Duration) {
		at := now.Add(in)
		r.askAt = &at
	}
	waiting := r.grantedAt == nil
	switch {
	case a.granted:
		r.grant("sink", a.rate)
		again(s.config.AskAgain) // it may change its mind
		if !waiting {
			return nil
		}
		return s.store.extend(ctx, tx, r)
	case waiting && now.Sub(r.since) > s.config.AskFor:
		r.askAt = nil
		r.disable("the sink did not agree in time: " + a.reason)
	case waiting:
		r.asked++
		r.reason = clip(a.reason, reasonBytesMax)
		again(min(backoff(s.config.RetryBase, askRestMax, r.asked), askRestMax))
	case a.refused:
		r.askAt = nil
		r.disable("the sink has withdrawn its permission: " + a.reason)
	default: // it is away, which its deliveries will tell
		again(min(askRestMax, s.config.AskAgain))
	}
	return nil
}

func (r *row) disable(reason string) {
	r.state, r.reason, r.grantedAt, r.grantedBy, r.askAt = Disabled, clip(reason, reasonBytesMax), nil, "", nil
}

// disable ends a subscription at the wish of its sink, unless it was changed meanwhile.
func (s *Sender) disable(ctx context.Context, r *row, reason string) {
	work, cancel := detached(ctx, 10*time.Second)
	defer cancel()
	_, err := s.store.change(work, Scope{Everyone: true}, r.id.String(), r.revision, func(_ pgx.Tx, now *row) error {
		now.disable(reason)
		return nil
	})
	if err != nil {
		s.config.Logger.WarnContext(ctx, "webhook subscription is not disabled", "subscription", r.id, "error", err)
		return
	}
	s.config.Logger.InfoContext(ctx, "webhook subscription is disabled", "subscription", r.id, "reason", reason)
}

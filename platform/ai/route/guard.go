package route

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/gateway/expression"
)

const (
	heldBytesMax    = 32 << 20
	hookAnswerBytes = 64 << 10
	hookIdleConns   = 64
)

func newHookClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: hookIdleConns, IdleConnTimeout: time.Minute, Proxy: http.ProxyFromEnvironment},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// redact takes out of the request what the configuration says, before anybody else sees
// it.
func (x *exchange) redact() {
	if len(x.s.Redact.Patterns) == 0 {
		return
	}
	for _, name := range said {
		if value := x.call.Body.Get(name); value.Exists() {
			if changed := rewrite(value, false, x.s.Redact.Apply); changed != value.Raw {
				x.call.Body.Set(name, changed)
			}
		}
	}
}

// holdsBack reports whether answers in parts are held back until they are whole,
// because something has to look at them.
func (s *settings) holdsBack() bool {
	return len(s.Guards.Response) > 0 || s.Guards.Webhook != nil && slices.Contains(s.Guards.Webhook.On, "response")
}

func (x *exchange) guardRequest() error {
	return x.guard("request", x.s.Guards.Request, x.call.Body.Bytes, func() string { return requestText(x.call.Body) })
}

func (x *exchange) guardResponse(answer []byte) error {
	return x.guard("response", x.s.Guards.Response, func() []byte { return answer }, func() string { return answerText(answer) })
}

func (x *exchange) guardStream(frames []byte) error {
	return x.guard("response", x.s.Guards.Response, func() []byte { return nil }, func() string { return streamText(frames) })
}

// guard asks the guards and then the webhook whether a content may pass.
func (x *exchange) guard(on string, guards []config.Guard, data func() []byte, text func() string) error {
	hook := x.s.Guards.Webhook
	if hook != nil && !slices.Contains(hook.On, on) {
		hook = nil
	}
	if len(guards) == 0 && hook == nil {
		return nil
	}
	says := text()
	values := expression.Input(func(name string) (any, bool) {
		switch name {
		case "tenant":
			return x.call.Caller.Tenant, true
		case "client":
			return x.call.Caller.App, true
		case "model":
			return x.call.Model, true
		case "endpoint":
			return string(x.call.Format), true
		case "text":
			return says, true
		case "body":
			return gjson.ParseBytes(data()).Value(), true
		}
		return nil, false
	})
	for i, g := range guards {
		holds, err := g.Allow.Holds(values)
		if err != nil { // What cannot be told does not pass. The error may quote the content.
			x.h.config.Logger.WarnContext(x.r.Context(), "guard of the AI route could not be told, so the content was refused", slog.String("on", on), slog.Int("guard", i))
		}
		if err != nil || !holds {
			return contentRefused(g.Message)
		}
	}
	if hook == nil {
		return nil
	}
	return x.ask(hook, on, says)
}

func contentRefused(message string) error {
	return &wire.Error{Status: http.StatusForbidden, Code: "content_refused", Message: message}
}

// verdict is what a webhook answers.
type verdict struct {
	Allow   *bool  `json:"allow"`
	Message string `json:"message"`
}

// ask asks the webhook.
func (x *exchange) ask(hook *config.Webhook, on, says string) error {
	v, err := x.verdict(hook, on, says)
	switch {
	case err == nil && *v.Allow:
		return nil
	case err == nil:
		if v.Message == "" {
			v.Message = "The content is not allowed here."
		}
		return contentRefused(v.Message)
	case x.r.Context().Err() != nil:
		return x.r.Context().Err()
	}
	if failed, ok := errors.AsType[*url.Error](err); ok { // its address may hold a secret
		err = failed.Err
	}
	x.h.config.Logger.WarnContext(x.r.Context(), "webhook of the AI route did not answer", slog.String("on", on), slog.Bool("passed", hook.FailOpen), slog.Any("error", err))
	if hook.FailOpen {
		return nil
	}
	return &wire.Error{Status: http.StatusServiceUnavailable, Code: "guard_unavailable", Message: "The content cannot be checked at the moment.", RetryAfter: time.Second}
}

func (x *exchange) verdict(hook *config.Webhook, on, says string) (verdict, error) {
	var v verdict
	question, err := json.Marshal(map[string]string{
		"on": on, "tenant": x.call.Caller.Tenant, "client": x.call.Caller.App, "model": x.call.Model, "endpoint": string(x.call.Format), "text": says,
	})
	if err != nil {
		return v, err
	}
	ctx, cancel := context.WithTimeout(x.r.Context(), hook.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(question))
	if err != nil {
		return v, err
	}
	request.Header.Set("Content-Type", "application/json")
	if hook.Token != "" {
		request.Header.Set("Authorization", "Bearer "+string(hook.Token))
	}
	response, err := x.h.hooks.Do(request)
	if err != nil {
		return v, err
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(response.Body, hookAnswerBytes))
	if err != nil {
		return v, err
	}
	if response.StatusCode != http.StatusOK {
		return v, &hookError{response.StatusCode}
	}
	if err := json.Unmarshal(data, &v); err != nil || v.Allow == nil {
		return v, &hookError{response.StatusCode}
	}
	return v, nil
}

// hookError is an answer of a webhook that is no verdict.
type hookError struct{ status int }

// Error tells what is wanted.
func (e *hookError) Error() string {
	return "it answered " + http.StatusText(e.status) + ", want 200 with {\"allow\": true} or false"
}

// logContent writes what was asked and answered to the log, if an operator wants that.
// Patterns are taken out of both.
func (x *exchange) logContent(answered func() string) {
	if !x.s.LogContent {
		return
	}
	x.h.config.Logger.InfoContext(x.r.Context(), "AI call", slog.String("call_id", x.reservation.ID().String()), slog.String("model", x.call.Model),
		slog.String("asked", x.s.Redact.Apply(requestText(x.call.Body))), slog.String("answered", x.s.Redact.Apply(answered())))
}

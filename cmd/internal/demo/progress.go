package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// watched is an order whose payment takes three seconds: time enough to look on, and
// to change one's mind.
const (
	watchedBody  = `{"customer":"customer-00","currency":"EUR","items":[{"sku":"TEA-001","quantity":2}],"payment":{"token":"tok_slow"}}`
	watchTimeout = 30 * time.Second
	regret       = time.Second // what a person needs to see that it waits
)

// showUndone places an order, follows it through its operation's events and cancels it
// once a step waits, so that its steps are seen to go forward and then to be undone. It
// returns how many events told of it. An error says what was not as it must be.
func (c *client) showUndone(ctx context.Context, seed uint64, say func(format string, args ...any)) (progress int, err error) {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	w := watch{began: time.Now(), say: say, seen: make(map[string]string)}
	id, err := c.post(ctx, "/v1/orders", fmt.Sprintf("demo-%d-watched", seed), []byte(watchedBody))
	if err != nil {
		return 0, err
	}
	path := "/v1/operations/" + id
	say("\nfollowing one order by %s/events, and cancelling it while its payment is on its way", path)
	err = c.events(ctx, path+"/events", func(event string, op operation) error {
		progress++
		w.show(op)
		if event == "done" {
			return io.EOF
		}
		if w.waits(op) && !w.cancelled {
			w.cancelled = true
			select {
			case <-time.After(regret):
			case <-ctx.Done():
				return ctx.Err()
			}
			w.line("DELETE %s", path)
			return c.call(ctx, http.MethodDelete, path, nil, nil, http.StatusAccepted, &op)
		}
		return nil
	})
	if err != nil {
		return progress, fmt.Errorf("the events of operation %s: %w", id, err)
	}
	return progress, w.fault()
}

// watch shows what is new in an operation.
type watch struct {
	began     time.Time
	say       func(format string, args ...any)
	seen      map[string]string // status by step
	forward   int               // steps that were seen to be done
	undone    int               // steps that were seen to be undone
	cancelled bool
	last      operation
}

func (w *watch) line(format string, args ...any) {
	w.say("  %5.2f s  "+format, append([]any{time.Since(w.began).Seconds()}, args...)...)
}

// show tells of steps that have gone on, in their order, and of those that were undone,
// in the opposite one.
func (w *watch) show(op operation) {
	var undone []string
	for _, step := range op.Steps {
		if step.Status == w.seen[step.Name] {
			continue
		}
		w.seen[step.Name] = step.Status
		switch step.Status {
		case "pending":
		case "compensating", "compensated":
			undone = append([]string{step.Name}, undone...)
			if step.Status == "compensated" {
				w.undone++
			}
		case "done":
			w.forward++
			w.line("→ %-18s done", step.Name)
		default:
			w.line("→ %-18s %s", step.Name, step.Status)
		}
	}
	for _, name := range undone {
		w.line("← %-18s %s", name, map[string]string{"compensating": "being undone", "compensated": "undone"}[w.seen[name]])
	}
	if op.Done && !w.last.Done {
		w.line("%s, code %s", op.Status, op.Error.Code)
	}
	w.last = op
}

// waits reports whether a step is done and the next one is under way.
func (w *watch) waits(op operation) bool {
	done := false
	for _, step := range op.Steps {
		if step.Status == "running" && done {
			return step.Name == "authorize-payment"
		}
		done = step.Status == "done"
	}
	return false
}

// fault tells what a person did not get to see.
func (w *watch) fault() error {
	switch {
	case w.last.CreatedAt.Before(w.began): // by an earlier demo on the same data, with the same seed
		return nil
	case w.last.Status != "compensated" || w.last.Error.Code != "cancelled":
		return fmt.Errorf("operation %s was cancelled and ended %s %s", w.last.ID, w.last.Status, w.last.Error.Code)
	case w.forward == 0 || w.undone <= w.forward: // the one that was under way is undone as well
		return fmt.Errorf("operation %s: %d steps were seen to be done and %d to be undone", w.last.ID, w.forward, w.undone)
	}
	return nil
}

// events reads server-sent events of an operation until handle returns io.EOF, which is
// no error, or another error. A stream that ends before that is asked for again from
// where it ended, as a browser does.
func (c *client) events(ctx context.Context, path string, handle func(event string, op operation) error) error {
	last := ""
	for {
		err := c.eventsOnce(ctx, path, &last, handle)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *client) eventsOnce(ctx context.Context, path string, last *string, handle func(event string, op operation) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "text/event-stream")
	if *last != "" {
		request.Header.Set("Last-Event-ID", *last)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s answered %s", path, response.Status)
	}
	var id, event, data string
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			id = value
		case "event":
			event = value
		case "data":
			data = value
		case "":
			if lines.Text() == "" && data != "" {
				var op operation
				if err := json.Unmarshal([]byte(data), &op); err != nil {
					return fmt.Errorf("event %s %s: %w", event, id, err)
				}
				*last = id
				if err := handle(event, op); err != nil {
					return err
				}
			}
			if lines.Text() == "" {
				id, event, data = "", "", ""
			}
		}
	}
	return nil // the connection has ended, whyever
}

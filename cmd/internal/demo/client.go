package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// result is how one order ended, as its client saw it.
type result struct {
	order   order
	id      string
	status  string
	code    string
	triage  string // what a model said of its note, or why none was asked
	took    time.Duration
	problem error // the request or the product misbehaved
}

// client places orders over HTTP.
type client struct {
	base string
	http *http.Client
}

func newClient(base string, connections int) *client {
	return &client{base: base, http: &http.Client{
		Timeout:   40 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections},
	}}
}

// operation is what the demo reads of an operation.
type operation struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Done   bool   `json:"done"`
	Steps  []struct {
		Name   string `json:"name"`
		Status string `json:"status"`
	} `json:"steps"`
	CreatedAt time.Time `json:"created_at"`
	Error     struct {
		Code string `json:"code"`
	} `json:"error"`
	Result struct {
		Triage string `json:"triage"`
	} `json:"result"`
}

// place posts the order, with all its copies at once, and follows it to its end.
func (c *client) place(ctx context.Context, o order) result {
	r := result{order: o}
	begin := time.Now()
	ids := make([]string, o.kind.copies)
	errs := make([]error, o.kind.copies)
	var wait sync.WaitGroup
	for i := range o.kind.copies {
		wait.Go(func() { ids[i], errs[i] = c.post(ctx, o.kind.path(), o.key, o.body) })
	}
	wait.Wait()
	for i := range ids {
		switch {
		case errs[i] != nil:
			r.problem = errs[i]
			return r
		case ids[i] != ids[0]:
			r.problem = fmt.Errorf("one Idempotency-Key made two operations: %s and %s", ids[0], ids[i])
			return r
		}
	}
	r.id = ids[0]
	follow := c.follow
	if o.kind.note != "" {
		follow = c.followReviewed
	}
	op, err := follow(ctx, r.id)
	if err != nil {
		r.problem = err
		return r
	}
	r.triage = op.Result.Triage
	r.status, r.code = op.Status, op.Error.Code
	r.took = time.Since(begin)
	if r.status != o.kind.status || r.code != o.kind.code {
		r.problem = fmt.Errorf("order of kind %q ended %s %s, expected %s %s", o.kind.name, r.status, r.code, o.kind.status, o.kind.code)
	} else if o.kind.back > 0 {
		r.problem = c.sendBack(ctx, r.id, o)
	}
	return r
}

// sendBack returns a part of an order, or all of it.
func (c *client) sendBack(ctx context.Context, order string, o order) error {
	body := fmt.Appendf(nil, `{"order_id":%q,"items":[{"sku":%q,"quantity":%d}],"reason":"does not fit"}`, order, o.kind.sku, o.kind.back)
	id, err := c.post(ctx, "/v1/returns", o.key, body)
	if err != nil {
		return err
	}
	op, err := c.follow(ctx, id)
	if err == nil && op.Status != "completed" {
		err = fmt.Errorf("return %s of order %s ended %s %s", id, order, op.Status, op.Error.Code)
	}
	return err
}

// follow waits until an operation has ended, or is stuck.
func (c *client) follow(ctx context.Context, id string) (op operation, err error) {
	for {
		op = operation{}
		err = c.call(ctx, http.MethodGet, "/v1/operations/"+id, nil, map[string]string{"Prefer": "wait=20"}, http.StatusOK, &op)
		if err != nil || op.Done || op.Status == "stuck" {
			return op, err
		}
	}
}

// followReviewed follows an order that may need a person, and approves it when it waits
// for that.
func (c *client) followReviewed(ctx context.Context, id string) (op operation, err error) {
	for {
		op = operation{}
		err = c.call(ctx, http.MethodGet, "/v1/operations/"+id, nil, map[string]string{"Prefer": "wait=1"}, http.StatusOK, &op)
		if err != nil || op.Done || op.Status == "stuck" {
			return op, err
		}
		for _, step := range op.Steps {
			if step.Name != "decision" || step.Status != "running" {
				continue
			}
			if _, err := c.post(ctx, "/v1/reviews/"+id+"/decision", "decision-"+id, []byte(`{"approved":true,"by":"demo"}`)); err != nil {
				return op, err
			}
		}
	}
}

func (c *client) post(ctx context.Context, path, key string, body []byte) (id string, err error) {
	var op operation
	err = c.call(ctx, http.MethodPost, path, body, map[string]string{
		"Content-Type": "application/json", "Idempotency-Key": `"` + key + `"`, "Prefer": "respond-async",
	}, http.StatusAccepted, &op)
	return op.ID, err
}

// call makes a request. An answer that says it is worth trying again is tried
// again, as a good client does.
func (c *client) call(ctx context.Context, method, path string, body []byte, header map[string]string, want int, into any) error {
	for {
		request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		for name, value := range header {
			request.Header.Set(name, value)
		}
		response, err := c.http.Do(request)
		if err != nil {
			return err
		}
		content, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil {
			return err
		}
		switch response.StatusCode {
		case want:
			return json.Unmarshal(content, into)
		case http.StatusServiceUnavailable, http.StatusTooManyRequests:
			select {
			case <-time.After(500 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			return fmt.Errorf("%s %s answered %s: %s", method, path, response.Status, content)
		}
	}
}

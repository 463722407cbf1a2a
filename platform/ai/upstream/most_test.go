package upstream_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/upstream"
	"github.com/countermand/countermand/platform/ai/wire"
)

func TestPlanTellsTargetsAndTheMost(t *testing.T) {
	c := upstreams(t, map[string]http.HandlerFunc{"a": sim("sim-echo"), "b": sim("sim-echo")}, "a", "b")
	c.Deployments["any"] = upstream.Deployment{Provider: "a", Model: "*", OutputMax: 50}
	c.Models["x/*"] = upstream.Model{Targets: []upstream.Target{{Deployment: "any", Weight: 1}}, Tenants: []string{"t1"}}
	r := router(t, c)
	plan, err := r.Plan(request(t, `{"model":"m","max_tokens":7,"n":3,"messages":[]}`))
	if err != nil || plan.Most.Output != 21 || !slices.Equal(plan.Targets, []ai.Model{{Provider: "p", Name: "a"}, {Provider: "p", Name: "b"}}) {
		t.Errorf("%+v, %v", plan, err)
	}
	q := request(t, `{"model":"x/y/z","messages":[]}`)
	if _, err := r.Plan(q); err == nil {
		t.Error("another tenant's model can be used")
	}
	q.Tenant = "t1"
	if plan, err = r.Plan(q); err != nil || plan.Model != "x/*" || plan.Most.Output != 50 || plan.Targets[0].Name != "y/z" {
		t.Errorf("%+v, %v", plan, err)
	}
	image := request(t, `{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,`+strings.Repeat("A", 100_000)+`"}}]}]}`)
	if plan, err = r.Plan(image); err != nil || plan.Most.Input > 7000 || plan.Most.Input < 6000 {
		t.Errorf("an image is taken for %d tokens, %v", plan.Most.Input, err)
	}
	for _, refused := range []string{
		`{"model":"none"}`, `{"model":"x/"}`, `{"model":"m","n":1000}`, `{"model":"m","service_tier":"priority"}`, `{"model":"m","speed":"fast"}`,
	} {
		var e *wire.Error
		if _, err := r.Plan(request(t, refused)); !errors.As(err, &e) {
			t.Errorf("%s: %v", refused, err)
		}
	}
}

// The most that a call can use follows from what its upstream heeds, and not from what
// only looks like a bound or like a file.
func TestTheMostCannotBeTalkedDown(t *testing.T) {
	c := upstreams(t, map[string]http.HandlerFunc{"a": sim("sim-echo")}, "a")
	c.Deployments["a"] = upstream.Deployment{Provider: "a", Model: "a", OutputMax: 500}
	r := router(t, c)
	text := strings.Repeat("x", 100_000)
	for name, tt := range map[string]struct {
		format        wire.Format
		body          string
		output, input int64 // at least
	}{
		"a bound of another format":   {wire.Chat, `{"model":"m","max_output_tokens":1,"messages":[]}`, 500, 0},
		"two bounds":                  {wire.Chat, `{"model":"m","max_tokens":1,"max_completion_tokens":9000,"messages":[]}`, 9000, 0},
		"a foreign bound beside one":  {wire.Messages, `{"model":"m","max_tokens":1,"max_completion_tokens":9000,"messages":[]}`, 9000, 0},
		"a bound that is a text":      {wire.Chat, `{"model":"m","max_tokens":"1","messages":[]}`, 500, 0},
		"a text like an image":        {wire.Chat, `{"model":"m","messages":[{"role":"user","content":"data:image/png;base64,` + text + `"}]}`, 0, 50_000},
		"a text part like an image":   {wire.Chat, `{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"data:image/png;base64,` + text + `"}]}]}`, 0, 50_000},
		"input of a tool like a file": {wire.Messages, `{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","input":{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + text + `"}}}]}]}`, 0, 50_000},
		"an image elsewhere":          {wire.Chat, `{"model":"m","messages":[{"role":"user","content":[{"type":"\u0069mage_url","image_url":{"url":"https://x.example"}}]}]}`, 0, 6000},
		"a file elsewhere":            {wire.Chat, `{"model":"m","messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"f"}}]}]}`, 0, 200_000},
		"a document elsewhere":        {wire.Messages, `{"model":"m","messages":[{"role":"user","content":[{"type":"document","source":{"type":"url","url":"https://x.example"}}]}]}`, 0, 200_000},
		"what was said before":        {wire.Responses, `{"model":"m","previous_response_id":"r","input":"x"}`, 0, 200_000},
	} {
		q := request(t, tt.body)
		q.Format = tt.format
		c.Providers["a"] = withResponses(c.Providers["a"])
		r.SetConfig(c)
		plan, err := r.Plan(q)
		if err != nil || plan.Most.Output < tt.output || plan.Most.Input < tt.input {
			t.Errorf("%s: %+v, %v", name, plan, err)
		}
	}
	for _, refused := range []string{`"models":["o1-pro"]`, `"fallbacks":["o1-pro"]`, `"inference_geo":"us"`, `"service_tier":1`} {
		if _, err := r.Plan(request(t, `{"model":"m",`+refused+`}`)); err == nil {
			t.Errorf("%s costs nobody knows what, and is let through", refused)
		}
	}
}

func withResponses(p upstream.Provider) upstream.Provider {
	p.Responses = true
	return p
}

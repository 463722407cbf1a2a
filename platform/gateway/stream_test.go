package gateway_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/gateway"
)

func TestStreamOfServerSentEvents(t *testing.T) {
	t.Parallel()
	// Without heartbeats, at which a stream looks again.
	s := setupStreams(t, func(c *gateway.Config, _ *gateway.Deps) { c.HeartbeatInterval = time.Hour })
	s.publish(fact("placed", "a", 0))
	all, one := s.open("/v1/events"), s.open("/v1/orders/b/events", "Accept: text/event-stream")
	s.publish(fact("placed", "a", 1), fact("placed", "b", 1), fact("confirmed", "b", 2), fact("placed", "b-copy", 3), fact("placed", "b-", 4))
	if got := all.next(5); !slices.Equal(got, []string{"a-1", "b-1", "b-2", "b-copy-3", "b--4"}) {
		t.Errorf("all: %v", got)
	}
	if got := one.next(3); !slices.Equal(got, []string{"b-1", "b-2", "b-copy-3"}) {
		t.Errorf("one order: %v", got)
	}
	last := one.last
	s.publish(fact("confirmed", "b", 5))
	for name, resumed := range map[string]*eventsOf{
		"by header": s.open("/v1/orders/b/events", "Last-Event-ID: "+last),
		"by query":  s.open("/v1/orders/b/events?after=" + last),
		// A browser keeps the query it began with.
		"in spite of start": s.open("/v1/orders/b/events?start=earliest", "Last-Event-ID: "+last),
		"from the earliest": s.open("/v1/orders/b/events?start=earliest&exact.id=b-5"),
		"from a time":       s.open("/v1/orders/b/events?suffix.id=-5&start=" + url.QueryEscape(time.Now().Add(-time.Hour).Format(time.RFC3339))),
		"of some types":     s.open("/v1/events?start=earliest&types=shop.order.confirmed.v1&filter=" + url.QueryEscape("id LIKE '%-5'")),
	} {
		if got := resumed.next(1); got[0] != "b-5" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestHeadersOfStream(t *testing.T) {
	t.Parallel()
	s := setupStreams(t)
	header := s.get("/v1/events").Header
	for name, want := range map[string]string{
		"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no", "Vary": "Accept",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	head, err := s.server.Client().Head(s.server.URL + "/v1/events")
	if err != nil || head.StatusCode != http.StatusOK || head.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD is answered %v, %v", head, err)
	}
	_ = head.Body.Close()
}

func TestIdleStream(t *testing.T) {
	t.Parallel()
	s := setupStreams(t, func(c *gateway.Config, _ *gateway.Deps) { c.HeartbeatInterval = 20 * time.Millisecond })
	stream := s.open("/v1/orders/b/events")
	began := stream.last
	s.publish(fact("placed", "a", 1)) // which the stream does not show
	for beat, err := stream.frame(); stream.last == began; beat, err = stream.frame() {
		if err != nil || !beat.comment || beat.data != "" {
			t.Fatalf("instead of a heartbeat: %+v, %v", beat, err)
		}
	}
	s.publish(fact("placed", "b", 2))
	if got := s.open("/v1/orders/b/events", "Last-Event-ID: "+stream.last).next(1); got[0] != "b-2" {
		t.Errorf("after the position of a heartbeat: %v", got)
	}
	idle := s.open("/v1/placed", "Accept: text/event-stream")
	for {
		f, err := idle.frame()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || !f.comment {
			t.Fatalf("an idle stream shows %+v, %v", f, err)
		}
	}
}

func TestTenantsAreKeptApart(t *testing.T) {
	t.Parallel()
	s := setupStreams(t)
	of := func(tenant string) func(*events.Event) {
		return func(e *events.Event) { e.SetExtension(events.TenantExtension, tenant) }
	}
	acme, nobody := s.open("/v1/events", whoHeader+": acme/1"), s.open("/v1/events")
	s.publish(fact("placed", "a", 1), fact("placed", "a", 2, of("other")), fact("placed", "a", 3, of("acme")), fact("placed", "a", 4))
	s.publish(fact("placed", "a", 5, of("acme")))
	if got := acme.next(2); !slices.Equal(got, []string{"a-3", "a-5"}) {
		t.Errorf("acme sees %v", got)
	}
	if got := nobody.next(5); !slices.Equal(got, []string{"a-1", "a-2", "a-3", "a-4", "a-5"}) {
		t.Errorf("without an identity: %v", got)
	}
	past := s.open("/v1/events?start=earliest&filter="+url.QueryEscape("tenantid = 'other' OR TRUE"), whoHeader+": acme/1")
	if got := past.next(2); !slices.Equal(got, []string{"a-3", "a-5"}) {
		t.Errorf("of the past acme sees %v", got)
	}
}

func TestLongPoll(t *testing.T) {
	t.Parallel()
	s := setupStreams(t)
	begin := s.get("/v1/events", batchHeader)
	if begin.StatusCode != http.StatusNoContent || begin.Header.Get("Last-Event-ID") == "" {
		t.Fatalf("answered %s %v", begin.Status, begin.Header)
	}
	page := func(response *http.Response) (ids []string) {
		t.Helper()
		if got := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || got != "application/cloudevents-batch+json" {
			t.Fatalf("answered %s %q", response.Status, got)
		}
		var all []json.RawMessage
		if err := json.NewDecoder(response.Body).Decode(&all); err != nil {
			t.Fatal(err)
		}
		for _, one := range all {
			ids = append(ids, eventID(t, one))
		}
		return ids
	}
	s.publish(fact("placed", "a", 1), fact("placed", "a", 2), fact("placed", "a", 3))
	// A page has what the gateway has by then, so one may have less than its limit.
	answer := s.get("/v1/events?limit=2&after="+begin.Header.Get("Last-Event-ID"), batchHeader, "Prefer: wait=10")
	var got []string
	for {
		ids := page(answer)
		if len(ids) > 2 {
			t.Errorf("a page of two has %v", ids)
		}
		if got := answer.Header.Get("Preference-Applied"); got != "wait=10" {
			t.Errorf("applied %q", got)
		}
		if got = append(got, ids...); len(got) >= 3 {
			break
		}
		next, rel, _ := strings.Cut(strings.TrimPrefix(answer.Header.Get("Link"), "<"), ">")
		if rel != `; rel="next"` {
			t.Fatalf("link %q", answer.Header.Get("Link"))
		}
		answer = s.get(next, batchHeader, "Prefer: wait=10")
	}
	if !slices.Equal(got, []string{"a-1", "a-2", "a-3"}) {
		t.Errorf("the pages have %v", got)
	}
	at := answer.Header.Get("Last-Event-ID")
	if none := s.get("/v1/events", batchHeader, "Last-Event-ID: "+at, "Prefer: wait=1"); none.StatusCode != http.StatusNoContent || none.Header.Get("Last-Event-ID") == "" {
		t.Errorf("nothing is answered %s", none.Status)
	}
	waited := make(chan *http.Response, 1)
	go func() { waited <- s.get("/v1/events", batchHeader, "Last-Event-ID: "+at, "Prefer: wait=20") }()
	s.publish(fact("placed", "a", 4))
	if got := page(<-waited); !slices.Equal(got, []string{"a-4"}) {
		t.Errorf("what was waited for is %v", got)
	}
	sdk, err := cehttp.NewEventsFromHTTPResponse(s.get("/v1/placed?start=earliest"))
	if err != nil || len(sdk) != 4 || sdk[3].ID() != "a-4" || sdk[3].Validate() != nil {
		t.Errorf("the SDK of CloudEvents reads %v, %v", sdk, err)
	}
	if got := page(s.get("/v1/placed?start=earliest")); !slices.Equal(got, []string{"a-1", "a-2", "a-3", "a-4"}) {
		t.Errorf("what the route prefers is %v", got)
	}
}

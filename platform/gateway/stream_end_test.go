package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/gateway"
)

func TestFollowersAreLimited(t *testing.T) {
	t.Parallel()
	s := setupStreams(t)
	wantCode := func(response *http.Response, status int, code string) {
		t.Helper()
		var p gateway.Problem
		if err := json.NewDecoder(response.Body).Decode(&p); err != nil || response.StatusCode != status || p.Code != code || response.Header.Get("Retry-After") == "" {
			t.Errorf("answered %s %q, %v", response.Status, p.Code, err)
		}
	}
	first := s.get("/v1/few", whoHeader+": acme/1")
	wantCode(s.get("/v1/few", whoHeader+": acme/2"), http.StatusTooManyRequests, "too_many_followers")
	s.open("/v1/few", whoHeader+": other/1")
	wantCode(s.get("/v1/few", whoHeader+": third/1"), http.StatusServiceUnavailable, "overloaded")
	_ = first.Body.Close()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) { // until the gateway has seen it go
		if again := s.get("/v1/few", whoHeader+": acme/2"); again.StatusCode == http.StatusOK {
			break
		}
		if time.Since(began) > patience {
			t.Fatal("a place is not given back")
		}
	}
}

// TestSlowReader lets a client read nothing until more has come than is kept for it.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	s := setupStreams(t, func(c *gateway.Config, _ *gateway.Deps) { c.Registerer = registry })
	slow := s.open("/v1/events")
	const many = 600
	data := []byte(`{"order_id":"` + strings.Repeat("x", 100<<10) + `"}`) // 60 MB in all
	for n := 0; n < many; n += 20 {
		var some []events.Event
		for i := range 20 {
			some = append(some, fact("placed", "a", n+i, func(e *events.Event) { e.Data = data }))
		}
		s.publish(some...)
	}
	for began := time.Now(); ended(t, registry, "overrun") == 0; time.Sleep(5 * time.Millisecond) {
		// What the sockets hold goes to the client, so that the gateway can tell the rest.
		if f, err := slow.frame(); err != nil || time.Since(began) > patience {
			t.Fatalf("%+v %v", f.event, err)
		}
	}
	var last frame
	for {
		f, err := slow.frame()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("the stream breaks off: %v", err)
			}
			break
		}
		last = f
	}
	if last.event != "overrun" || last.id != "" || !strings.Contains(last.data, `"retriable":true`) {
		t.Errorf("it ends with %+v", last)
	}
	var seen int
	_, _ = fmt.Sscanf(s.open("/v1/events", "Last-Event-ID: "+slow.last).next(1)[0], "a-%d", &seen)
	var before int
	_, _ = fmt.Sscanf(eventID(t, []byte(slow.data)), "a-%d", &before)
	if seen != before+1 {
		t.Errorf("after event %d comes %d", before, seen)
	}
}

func ended(t *testing.T, registry *prometheus.Registry, reason string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "countermand_stream_ends_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetValue() == reason {
					return metric.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

func TestDrainEndsStreams(t *testing.T) {
	t.Parallel()
	s := setupStreams(t)
	stream := s.open("/v1/events")
	polled := make(chan *http.Response, 1)
	var waiting sync.WaitGroup
	s.publish(fact("placed", "a", 1))
	stream.next(1)
	waiting.Go(func() { polled <- s.get("/v1/events", "Accept: application/cloudevents-batch+json", "Prefer: wait=15") })
	time.Sleep(50 * time.Millisecond) // for the poll to wait; without it there is nothing to see
	began := time.Now()
	s.gateway.Drain()
	f, err := stream.frame()
	if err != nil || f.retry == "" || f.data != "" || f.event != "" {
		t.Errorf("a stream that drains says %+v, %v", f, err)
	}
	if f, err := stream.frame(); !errors.Is(err, io.EOF) {
		t.Errorf("and then %+v, %v", f, err)
	}
	waiting.Wait()
	if response := <-polled; response.StatusCode != http.StatusNoContent || response.Header.Get("Last-Event-ID") == "" {
		t.Errorf("a poll that drains is answered %s", response.Status)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it takes %s", took)
	}
}

// TestStreamsOutliveTheReadTimeout waits for longer than a server gives its clients to
// send a request.
func TestStreamsOutliveTheReadTimeout(t *testing.T) {
	t.Parallel()
	const readTimeout = 200 * time.Millisecond
	s := setupStreams(t)
	s.serve(func(server *http.Server) { server.ReadTimeout = readTimeout })
	stream, socket := s.open("/v1/events"), s.socket("/v1/events")
	begin := s.get("/v1/events", batchHeader).Header.Get("Last-Event-ID")
	polled := make(chan *http.Response, 1)
	go func() { polled <- s.get("/v1/events", batchHeader, "Prefer: wait=15", "Last-Event-ID: "+begin) }()
	time.Sleep(3 * readTimeout) // which is what the test is about
	s.publish(fact("placed", "a", 1))
	stream.next(1)
	if e := receive(t, socket); e.ID != "a-1" {
		t.Errorf("over the socket came %+v", e)
	}
	if response := <-polled; response.StatusCode != http.StatusOK {
		t.Errorf("the poll is answered %s", response.Status)
	}
}

func TestStreamsEndWithTheirCredential(t *testing.T) {
	t.Parallel()
	for name, one := range map[string]struct {
		recheck time.Duration
		begin   func(i *gateway.Identity, revoked *atomic.Bool)
	}{
		"revoked": {20 * time.Millisecond, func(i *gateway.Identity, revoked *atomic.Bool) {
			i.Recheck = func(context.Context) bool { return !revoked.Load() }
		}},
		"expired": {time.Hour, func(i *gateway.Identity, _ *atomic.Bool) {
			i.Expires = time.Now().Add(300 * time.Millisecond)
			i.Recheck = func(context.Context) bool { return true }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := prometheus.NewRegistry()
			s := setupStreams(t, func(c *gateway.Config, _ *gateway.Deps) { c.Registerer, c.RecheckInterval = registry, one.recheck })
			var revoked atomic.Bool
			s.credential = func(i *gateway.Identity) { one.begin(i, &revoked) }
			const who = whoHeader + ": acme/1"
			command := send(t, http.MethodPost, s.server.URL+"/v1/commands/shop.checkout.request.v1", order, who, "Content-Type: application/json")
			streams := map[string]*eventsOf{
				"of events":       s.open("/v1/events", who),
				"of an operation": {t: t, lines: bufio.NewReader(s.get(command.Header.Get("Location")+"/events", who).Body)},
			}
			socket := s.socket("/v1/events", who)
			polled := make(chan *http.Response, 1)
			go func() { polled <- s.get("/v1/events", who, batchHeader, "Prefer: wait=15") }()
			revoked.Store(true)
			for name, stream := range streams {
				var last frame
				f, err := stream.frame()
				for ; err == nil; f, err = stream.frame() {
					last = f
				}
				if !errors.Is(err, io.EOF) || last.event != "credential_ended" || !strings.Contains(last.data, `"status":401`) {
					t.Errorf("the stream %s ends with %+v, %v", name, last, err)
				}
			}
			closing(t, socket, 4401)
			response := <-polled
			if response.StatusCode != http.StatusUnauthorized || !strings.Contains(response.Header.Get("WWW-Authenticate"), "invalid_token") {
				t.Errorf("the poll is answered %s %v", response.Status, response.Header)
			}
			if got := ended(t, registry, "credential"); got != 2 {
				t.Errorf("%v streams are counted", got)
			}
		})
	}
}

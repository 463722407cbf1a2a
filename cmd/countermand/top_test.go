package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Two processes are one picture: what waits is added up, and rates are of what has
// happened since the look before.
func TestTopAddsProcessesUp(t *testing.T) {
	t.Parallel()
	process := func(lag int) *httptest.Server {
		var looks atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/admin/v1/outboxes" {
				_, _ = io.WriteString(w, `{"outboxes":[{"service":"order","waiting":4,"dead":1,"parked":2}]}`)
				return
			}
			n := looks.Add(1)
			fmt.Fprintf(w, `
# TYPE countermand_consumer_lag gauge
countermand_consumer_lag{consumer="order",topic="a.commands"} %d
countermand_consumer_lag{consumer="order",topic="b.commands"} 1
# TYPE countermand_consumer_handled_total counter
countermand_consumer_handled_total{consumer="order"} %d
countermand_consumer_handled_total{consumer="payment"} 7
# TYPE countermand_consumer_batch_size histogram
countermand_consumer_batch_size_bucket{consumer="order",le="+Inf"} %d
countermand_consumer_batch_size_sum{consumer="order"} %d
countermand_consumer_batch_size_count{consumer="order"} %d
# TYPE countermand_outbox_published_total counter
countermand_outbox_published_total{outbox="order",outcome="stored"} %d
countermand_outbox_published_total{outbox="order",outcome="failed"} 3
`, lag, 1000*n, 100*n, 1000*n, 100*n, 500*n)
		}))
		t.Cleanup(server.Close)
		return server
	}
	from := &pulses{client: http.DefaultClient, listeners: []string{process(5).URL, process(10).URL + "/"}}
	before, err := from.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now, err := from.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now.at = before.at.Add(10 * time.Second)
	got := now.since(before)
	want := pulse{
		Consumers: []consumerPulse{{Name: "order", Lag: 17, PerSecond: 200, BatchSize: 10}, {Name: "payment"}},
		Outboxes:  []outboxPulse{{Name: "order", Waiting: 4, PerSecond: 100, Dead: 3}},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	var out bytes.Buffer
	if err := top(t.Context(), from, &screen{out: &out}, "jsonl", time.Millisecond, 2); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || json.Unmarshal([]byte(lines[1]), &got) != nil || got.Consumers[0].Lag != 17 {
		t.Errorf("printed %q", lines)
	}
	if text := want.table(); !strings.Contains(text, "order   17") || strings.Index(text, "order") > strings.Index(text, "payment") {
		t.Errorf("printed\n%s", text)
	}
}

func TestTopSaysWhoDoesNotAnswer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	from := &pulses{client: http.DefaultClient, listeners: []string{server.URL}}
	_, err := from.read(t.Context())
	if err == nil || !strings.Contains(err.Error(), server.URL) || !strings.Contains(err.Error(), "404") {
		t.Errorf("error %v", err)
	}
}

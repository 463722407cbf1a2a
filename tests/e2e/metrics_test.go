package e2e

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

var labelPattern = regexp.MustCompile(`([a-z_]+)="((?:[^"\\]|\\.)*)"`)

// series scrapes the metrics and returns the countermand series, by name and
// labels.
func series(t *testing.T) map[string]bool {
	t.Helper()
	answer := ask(t, "/metrics")
	if answer.Status != http.StatusOK || !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/plain") {
		t.Fatalf("/metrics answered %d with Content-Type %q", answer.Status, answer.Header.Get("Content-Type"))
	}
	found := make(map[string]bool)
	for line := range strings.Lines(string(answer.Body)) {
		if name, _, ok := strings.Cut(line, " "); ok && strings.HasPrefix(line, "countermand_") {
			if end := strings.LastIndex(line, "}"); end > 0 {
				name = line[:end+1]
			}
			found[name] = true
		}
	}
	return found
}

func TestMetricsTellWhatTheProductDoes(t *testing.T) {
	t.Parallel()
	finished(t, accepted(t, place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_ok"))), "completed")
	found := series(t)
	for _, want := range []string{
		`countermand_http_requests_total{code="202",method="POST",route="place-order"}`,
		`countermand_http_request_seconds_count{route="place-order"}`,
		`countermand_saga_status_total{saga="checkout",status="completed"}`,
		`countermand_saga_seconds_count{saga="checkout"}`,
	} {
		if !found[want] {
			t.Errorf("there is no series %s", want)
		}
	}
	for _, prefix := range []string{"countermand_saga_inputs_total{", "countermand_consumer_handled_total{", "countermand_outbox_published_total{"} {
		has := false
		for name := range found {
			has = has || strings.HasPrefix(name, prefix)
		}
		if !has {
			t.Errorf("there is no series %s…}", prefix)
		}
	}
	if answer := ask(t, "/metrics"); !strings.Contains(string(answer.Body), "go_goroutines ") {
		t.Error("the metrics of the Go runtime are missing")
	}
}

// TestLabelsAreBounded makes noise that no client can be kept from making. No
// part of it may become a label, and the number of series must not follow it. It
// runs alone, so that all new series are of its doing.
func TestLabelsAreBounded(t *testing.T) {
	const times = 40
	noise := func(round string) {
		for i := range times {
			mark := fmt.Sprintf("noise%s%d", round, i)
			request(t, http.MethodGet, "/"+mark, "")
			request(t, "NOISE"+strings.ToUpper(mark), "/v1/orders", "")
			request(t, http.MethodGet, "/v1/inventory/"+mark, "")
			request(t, http.MethodGet, "/v1/operations/"+mark, "")
			request(t, http.MethodPost, "/v1/commands/"+mark, "{}", "Content-Type: application/json")
			post(t, `{"`+mark+`":1}`)
			place(t, product.NewCheckout(mark, mark, 1, mark), "Prefer: wait=10", "Idempotency-Key: "+mark)
		}
	}
	noise("a")
	before := series(t)
	noise("b")
	after := series(t)
	if grown := len(after) - len(before); grown > 0 {
		t.Errorf("the second round of the same noise made %d new series", grown)
	}
	const seriesMax = 1500
	if len(after) > seriesMax {
		t.Errorf("there are %d series, want less than %d", len(after), seriesMax)
	}
	id := regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-`)
	for name := range after {
		for _, label := range labelPattern.FindAllStringSubmatch(name, -1) {
			if strings.Contains(strings.ToLower(label[2]), "noise") || id.MatchString(label[2]) {
				t.Errorf("a client's words became a label: %s", name)
			}
		}
	}
}

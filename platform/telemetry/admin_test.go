package telemetry_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/platform/telemetry"
)

func TestAdminMux(t *testing.T) {
	t.Parallel()
	registry := telemetry.NewRegistry()
	orders := prometheus.NewCounter(prometheus.CounterOpts{Name: "orders_total", Help: "Orders."})
	registry.MustRegister(orders)
	orders.Inc()
	health := telemetry.NewHealth(slog.New(slog.DiscardHandler))
	server := httptest.NewServer(telemetry.NewAdminMux(registry, health, "1.2.3"))
	defer server.Close()

	for path, test := range map[string]struct {
		code int
		want []string
	}{
		"/metrics":                    {http.StatusOK, []string{"orders_total 1", "go_goroutines", "go_build_info"}},
		"/livez":                      {http.StatusOK, []string{"alive"}},
		"/readyz":                     {http.StatusOK, []string{`"status":"ready"`}},
		"/version":                    {http.StatusOK, []string{`"version":"1.2.3"`, `"go":"go1.`}},
		"/debug/pprof/":               {http.StatusOK, []string{"goroutine"}},
		"/debug/pprof/heap?debug=1":   {http.StatusOK, []string{"heap profile"}},
		"/debug/pprof/cmdline":        {http.StatusNotFound, nil},
		"/":                           {http.StatusNotFound, nil},
		"/debug/pprof/trace?seconds=": {http.StatusOK, nil},
	} {
		response, err := server.Client().Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != test.code {
			t.Errorf("%s: %d, want %d", path, response.StatusCode, test.code)
		}
		for _, want := range test.want {
			if !strings.Contains(string(body), want) {
				t.Errorf("%s lacks %q: %.300s", path, want, body)
			}
		}
	}
	response, err := server.Client().Post(server.URL+"/livez", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /livez: %d", response.StatusCode)
	}
}

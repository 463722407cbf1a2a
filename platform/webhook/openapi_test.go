package webhook_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/webhook"
)

// OPTIONS is left out: it tells of the others.
func TestOpenAPIDescribesEveryResource(t *testing.T) {
	t.Parallel()
	var described struct {
		Paths map[string]map[string]struct{ Security *[]any }
	}
	if err := json.Unmarshal(webhook.OpenAPI(), &described); err != nil {
		t.Fatal(err)
	}
	var got, want []string
	line := func(method, path string, open bool) string {
		if open {
			path += " open"
		}
		return strings.ToUpper(method) + " " + path
	}
	for path, item := range described.Paths {
		for method, operation := range item {
			got = append(got, line(method, path, operation.Security != nil))
		}
	}
	for _, resource := range new(webhook.Store).Resources(false) {
		for _, method := range resource.Methods {
			if method != http.MethodOptions {
				want = append(want, line(method, resource.Path, resource.Open))
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("openapi.json describes\n%s\nand the resources are\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	c := (&rig{t: t, store: new(webhook.Store)}).client(true, gateway.Identity{})
	for _, path := range []string{"/openapi.json", "/docs"} {
		if w := c.call("GET", path, ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "/v1/subscriptions/{id}/deliveries/{delivery}") {
			t.Errorf("%s is %d and does not tell of deliveries: %s", path, w.Code, w.Body)
		}
	}
}

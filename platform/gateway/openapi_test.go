package gateway_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/gateway"
)

// openAPI is what the tests look at of a document.
type openAPI struct {
	OpenAPI string `json:"openapi"`
	Paths   map[string]map[string]json.RawMessage
}

type openAPIOperation struct {
	OperationID string `json:"operationId"`
	Summary     string
	Security    []map[string][]string
	Responses   map[string]json.RawMessage
	Parameters  []openAPIParameter
}

type openAPIParameter struct {
	Name     string
	Required bool
}

func documentOf(t *testing.T, text []byte) (d openAPI, operations map[string]openAPIOperation) {
	t.Helper()
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	operations = make(map[string]openAPIOperation)
	for path, item := range d.Paths {
		for method, raw := range item {
			if method == "parameters" {
				continue
			}
			var o openAPIOperation
			if err := json.Unmarshal(raw, &o); err != nil {
				t.Fatal(err)
			}
			operations[strings.ToUpper(method)+" "+path] = o
		}
	}
	return d, operations
}

func TestOpenAPIDescribesEveryRoute(t *testing.T) {
	t.Parallel()
	known := contracts(t)
	known.Facts = facts()
	for name, text := range map[string]string{"open": transcriptRoutes, "closed": authRoutes} {
		table, err := gateway.ParseTable("routes.yaml", []byte(text), known, lookupIn(map[string]string{"ORDER_URL": "http://o", "SLOW_URL": "http://s", "JWKS_URL": "https://id.example/keys"}))
		if err != nil {
			t.Fatal(err)
		}
		document, err := table.OpenAPI()
		if err != nil {
			t.Fatal(err)
		}
		d, operations := documentOf(t, document)
		if d.OpenAPI != "3.1.0" {
			t.Errorf("%s: version %q", name, d.OpenAPI)
		}
		ids := make(map[string]bool)
		for _, rt := range table.Routes() {
			o, ok := operations[rt.Method+" "+rt.Path]
			if documents := rt.Kind == "documents"; ok == documents {
				t.Errorf("%s: %s %s is described: %t", name, rt.Method, rt.Path, ok)
			}
			if ok && (o.Summary == "" || len(o.Responses) < 2 || ids[o.OperationID]) {
				t.Errorf("%s: %s %s is described as %+v", name, rt.Method, rt.Path, o)
			}
			ids[o.OperationID] = true
			if asked := rt.Auth != "none"; ok && asked != (len(o.Security) > 0) {
				t.Errorf("%s: %s %s asks for %s, and is described with %v", name, rt.Method, rt.Path, rt.Auth, o.Security)
			}
		}
		for _, ref := range regexp.MustCompile(`"\$ref": "(#[^"]+)"`).FindAllStringSubmatch(string(document), -1) {
			if !leads(t, document, ref[1]) {
				t.Errorf("%s: %s leads nowhere", name, ref[1])
			}
		}
		again, err := table.OpenAPI()
		if err != nil || string(again) != string(document) {
			t.Errorf("%s: the document of one table is another each time, %v", name, err)
		}
	}
}

// leads reports whether a reference is to something in the document.
func leads(t *testing.T, document []byte, reference string) bool {
	t.Helper()
	var value any
	if err := json.Unmarshal(document, &value); err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(reference, "#/"), "/") {
		object, ok := value.(map[string]any)
		if value = object[name]; !ok || value == nil {
			return false
		}
	}
	return true
}

func TestOpenAPISaysWhatRoutesDo(t *testing.T) {
	t.Parallel()
	b, _ := setupAuth(t, authRoutes)
	w := b.do(http.MethodGet, "/openapi.json", "") // which asks for no credential
	wantStatus(t, w, http.StatusOK)
	wantStatus(t, b.do(http.MethodGet, "/openapi.json", "", "If-None-Match: "+w.Header().Get("Etag")), http.StatusNotModified)
	_, operations := documentOf(t, w.Body.Bytes())
	place := operations["POST /v1/orders"]
	if want := []string{"orders:write"}; len(place.Security) != 2 || !slices.Equal(place.Security[0]["key"], want) || !slices.Equal(place.Security[1]["bearer"], want) {
		t.Errorf("placing asks for %v", place.Security)
	}
	for _, status := range []string{"200", "202", "400", "401", "403", "409", "413", "415", "422", "503"} {
		if place.Responses[status] == nil {
			t.Errorf("placing has no answer %s", status)
		}
	}
	_, operations = documentOf(t, setup(t).do(http.MethodGet, "/openapi.json", "").Body.Bytes())
	once := operations["PUT /v1/orders"]
	required := func(p openAPIParameter) bool { return p.Name == "Idempotency-Key" && p.Required }
	if !slices.ContainsFunc(once.Parameters, required) {
		t.Errorf("a key that is required is described as %+v", once.Parameters)
	}
	if r := operations["POST /v1/orders"].Responses["402"]; !strings.Contains(string(r), "card_declined") {
		t.Errorf("a rejection is described as %s", r)
	}
}

func TestDocsPage(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *gateway.Config, _ *gateway.Deps) { c.AsyncAPI = []byte(`{"asyncapi":"3.0.0"}`) })
	w := b.do(http.MethodGet, "/docs", "", "X-Forwarded-Proto: https")
	wantStatus(t, w, http.StatusOK)
	wantHeader(t, w, "Content-Type", "text/html; charset=utf-8")
	if policy := w.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "script") {
		t.Errorf("policy %q", policy)
	}
	page := w.Body.String()
	for _, want := range []string{
		"https://example.com/v1/orders&#39;", "/v1/operations/{id}/events", `href="/asyncapi.json"`, "Schema of the body", `lang="en"`, `class="skip"`, "&#34;customer&#34;",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	for _, other := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if !strings.HasPrefix(other[1], "#") && !strings.HasPrefix(other[1], "/") {
			t.Errorf("the page loads or links %s", other[1])
		}
	}
	if strings.Contains(page, "<script") || strings.Contains(page, "style=") {
		t.Error("the page has what its policy forbids")
	}
	style := b.do(http.MethodGet, "/docs/style.css", "")
	wantStatus(t, style, http.StatusOK)
	if !strings.Contains(style.Body.String(), "prefers-color-scheme: dark") || strings.Contains(style.Body.String(), "url(") {
		t.Error("the style has no dark side, or loads something")
	}
	wantStatus(t, b.do(http.MethodGet, "/asyncapi.json", ""), http.StatusOK)
}

func TestATableWithoutDocuments(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *gateway.Config, _ *gateway.Deps) { c.AsyncAPI = []byte(`{}`) })
	table, err := gateway.ParseTable("routes.yaml", []byte("version: 1\ndocuments: none\n"), contracts(t), lookupIn(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.gateway.SetTable(table); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/openapi.json", "/asyncapi.json", "/docs", "/docs/style.css"} {
		wantProblem(t, b.do(http.MethodGet, path, ""), http.StatusNotFound, "not_found")
	}
	for _, text := range []string{"documents: perhaps", "routes: [{id: a, kind: proxy, match: GET /docs/x, upstream: o}]\nupstreams: {o: {url: 'http://o'}}"} {
		if _, err := gateway.ParseTable("routes.yaml", []byte("version: 1\n"+text+"\n"), contracts(t), lookupIn(nil)); err == nil {
			t.Errorf("%s: taken", text)
		}
	}
}

package route

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/ai/config"
)

// TestTheDocumentTellsOfEveryEndpoint compares the document with what is served.
func TestTheDocumentTellsOfEveryEndpoint(t *testing.T) {
	t.Parallel()
	var told struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(OpenAPI(), &told); err != nil {
		t.Fatal(err)
	}
	var documented []string
	for path, methods := range told.Paths {
		for method := range methods {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	h := New(Config{}, &config.Config{})
	defer h.Close()
	served := make([]string, len(documented))
	for i, one := range documented {
		method, path, _ := strings.Cut(one, " ")
		_, pattern := h.mux.Handler(httptest.NewRequest(method, strings.ReplaceAll(path, "{model}", "a/b"), nil))
		served[i] = strings.ReplaceAll(pattern, "{model...}", "{model}")
	}
	if !slices.Equal(served, documented) {
		t.Errorf("documented %q, served %q", documented, served)
	}
	for _, name := range []string{"chat/completions", "embeddings", "responses", "messages"} {
		if !slices.Contains(documented, http.MethodPost+" "+Prefix+name) {
			t.Errorf("%s is not in the document", name)
		}
	}
}

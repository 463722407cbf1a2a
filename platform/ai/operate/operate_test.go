package operate_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/operate"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/ai/prompt"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

func TestTheAPIAnswersAsItsContractSays(t *testing.T) {
	t.Parallel()
	pool := postgrestest.Open(t, postgres.Config{}, postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()},
		postgres.MigrationSet{Owner: "ai_budget", FS: budget.Migrations()}, postgres.MigrationSet{Owner: "ai_prompt", FS: prompt.Migrations()})
	prices, err := price.New(price.Overlay{})
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := budget.New(pool, budget.Config{Prices: prices})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	operate.Register(mux, operate.Config{
		Keeper: keeper, Prices: prices, Prompts: prompt.NewStore(pool, func() {}), Logger: slog.New(slog.DiscardHandler),
	})
	const words = `{"slug":"words","model":"m","messages":[{"role":"user","content":"x"}],"variables":{"type":"object"}}`
	for _, test := range []struct {
		request, body string
		status        int
		says          string
	}{
		{"GET /admin/v1/ai/budgets", "", 200, `{"budgets":[]}`},
		{"GET /admin/v1/ai/budgets/a", "", 404, "not_found"},
		{"PUT /admin/v1/ai/budgets/a", `{"tenant":"acme","unit":"usd","period":"day","limit":5}`, 200, `"left":5`},
		{"PUT /admin/v1/ai/budgets/a", `{"tenant":"acme","unit":"usd","period":"day","limit":7}`, 200, `"left":7`},
		{"PUT /admin/v1/ai/budgets/b", `{"tenant":"acme","unit":"usd","period":"day","limit":5}`, 409, "budget_exists"},
		{"PUT /admin/v1/ai/budgets/b", `{"unit":"eur","period":"day","limit":5}`, 422, "want usd, tokens or requests"},
		{"PUT /admin/v1/ai/budgets/b", `{"id":"c","unit":"usd","period":"day","limit":5}`, 422, "not that of the path"},
		{"PUT /admin/v1/ai/budgets/b", `{"limits":5}`, 400, "invalid_json"},
		{"GET /admin/v1/ai/budgets?tenant=other", "", 200, `{"budgets":[]}`},
		{"GET /admin/v1/ai/budgets?limit=0", "", 400, "invalid_limit"},
		{"DELETE /admin/v1/ai/budgets/a", "", 204, ""},
		{"DELETE /admin/v1/ai/budgets/a", "", 404, "not_found"},
		{"GET /admin/v1/ai/usage", "", 200, `"usage":[]`},
		{"GET /admin/v1/ai/usage?by=colour", "", 422, "want hour, day"},
		{"GET /admin/v1/ai/usage?from=today", "", 400, "invalid_from"},
		{"GET /admin/v1/ai/uncertain", "", 200, `{"uncertain":[]}`},
		{"POST /admin/v1/ai/uncertain/" + ai.NewCallID().String() + "/1", `{"cost_usd":"0.1"}`, 404, "not_found"},
		{"POST /admin/v1/ai/uncertain/" + ai.NewCallID().String() + "/1", `{"cost_usd":"-1"}`, 422, "invalid_cost"},
		{"GET /admin/v1/ai/prices/openai/gpt-4o-mini", "", 200, `"input":150000000`},
		{"GET /admin/v1/ai/prices/openai/none", "", 404, "price_unknown"},
		{"GET /admin/v1/ai/prompts", "", 200, `{"prompts":[]}`},
		{"POST /admin/v1/ai/prompts", words, 201, `"version":1`},
		{"POST /admin/v1/ai/prompts", `{"slug":"words"}`, 422, "invalid_prompt"},
		{"PUT /admin/v1/ai/prompts/words/stable", `{"version":1}`, 204, ""},
		{"PUT /admin/v1/ai/prompts/words/stable", `{"version":2}`, 404, "not_found"},
		{"GET /admin/v1/ai/prompts/words:stable", "", 200, `"version":1`},
		{"GET /admin/v1/ai/prompts", "", 200, `"stable":1`},
	} {
		method, path, _ := strings.Cut(test.request, " ")
		recorder := httptest.NewRecorder()
		mux.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(test.body)))
		body, _ := io.ReadAll(recorder.Body)
		if recorder.Code != test.status || !strings.Contains(string(body), test.says) {
			t.Errorf("%s %s: %d %s; want %d and %q", test.request, test.body, recorder.Code, body, test.status, test.says)
		}
	}
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/admin/ai/openapi.json", nil))
	var document struct{ Paths map[string]any }
	if err := json.Unmarshal(recorder.Body.Bytes(), &document); err != nil || len(document.Paths) != 9 {
		t.Errorf("the contract has %d paths, %v", len(document.Paths), err)
	}
}

package route_test

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/tidwall/gjson"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/simulated"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
)

func TestWithoutItsDatabaseItIsAwayAndDoesNotDoubtKeys(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none?connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	keeper, err := budget.New(pool, budget.Config{Prices: prices(t)})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, string(config.Builtin()), keeper)
	if got := p.post("/chat/completions", chat("sim-echo", "hi", ""), "X-Tenant", "a"); got.status != 503 || gjson.Get(got.body, "error.code").Str != "books_unavailable" {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// keep starts a keeper of budgets on a database of its own.
func keep(t *testing.T) *budget.Keeper {
	t.Helper()
	pool := postgrestest.Open(t, postgres.Config{MaxConns: 10},
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()}, postgres.MigrationSet{Owner: "ai_budget", FS: budget.Migrations()})
	keeper, err := budget.New(pool, budget.Config{Prices: prices(t), Reload: 10 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = keeper.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return keeper
}

func TestABudgetForTenLetsTenThrough(t *testing.T) {
	keeper := keep(t)
	provider := simulated.New()
	upstream := httptest.NewServer(provider)
	t.Cleanup(upstream.Close)
	p := start(t, `{version: 1, providers: {p: {wire: openai, base_url: "`+upstream.URL+`/v1", auth: none, prices: simulated}},
		deployments: {d: {provider: p, model: sim-echo}}, models: {m: d}}`, keeper)
	if err := keeper.Put(t.Context(), budget.Budget{ID: "ten", Tenant: "acme", Unit: budget.Requests, Period: budget.Month, Limit: 10}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // until the budget is known
		list, err := keeper.Budgets(t.Context(), budget.Filter{Tenant: "acme"})
		res, reserved := keeper.Reserve(t.Context(), budget.Call{Caller: ai.Caller{Tenant: "acme"}, Targets: []ai.Model{{Provider: "none", Name: "none"}}})
		if reserved == nil {
			res.Close()
		}
		if err == nil && len(list) == 1 && reserved == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err, reserved)
		}
	}
	time.Sleep(50 * time.Millisecond) // several reloads
	var let, refused atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 20 {
				switch got := p.post("/chat/completions", chat("m", "hi", `,"max_tokens":5`), "X-Tenant", "acme"); got.status {
				case 200:
					let.Add(1)
				case 429:
					refused.Add(1)
				default:
					t.Errorf("%d %s", got.status, got.body)
				}
			}
		})
	}
	wg.Wait()
	if let.Load() != 10 || provider.Calls() != 10 || refused.Load() != 990 {
		t.Errorf("%d of 1000 were let through, %d came to the provider, %d were refused", let.Load(), provider.Calls(), refused.Load())
	}
}

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
)

// allowed is what reading notes may cost in a day. Each order puts $0.05 by while it
// runs, so that at most ten can at a time.
const allowed = ai.USD / 2

// allow sets the budget of the saga that has notes read.
func (d *demo) allow(ctx context.Context) error {
	body, err := json.Marshal(budget.Budget{Tenant: "shop", App: "review", Unit: budget.USD, Period: budget.Day, Limit: int64(allowed)})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, d.children[wire.AI].ready.Admin+"/admin/v1/ai/budgets/demo", bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("set a budget: %w", err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("set a budget: %s", response.Status)
	}
	return nil
}

// calls compares the calls of models with their books.
func (a audit) calls(ctx context.Context, r *Report) error {
	type counts struct {
		Calls, Sagas, Uncertain, Open       int
		Unbooked, Strays                    int
		Ledger, Spent, Reserved, Held, Over int64
	}
	rows, err := collect[counts](ctx, a.databases[wire.AI], `
		select (select count(*) from ai_saga_call),
			(select count(distinct saga_id) from ai_saga_call),
			(select count(*) from ai_saga_call where state = 'uncertain'),
			(select count(*) from ai_saga_call where ended_at is null) + (select count(*) from ai_attempt where state = 'dispatched'),
			(select count(*) from ai_saga_call c where c.state = 'settled' and (select count(*) from ai_ledger l where l.call_id = c.id) <> 1),
			(select count(*) from ai_ledger l where not exists (select from ai_saga_call c where c.id = l.call_id and c.state = 'settled')),
			(select coalesce(sum(amount), 0)::bigint from ai_ledger),
			(select coalesce(sum(spent), 0)::bigint from ai_period),
			(select coalesce(sum(reserved), 0)::bigint from ai_period),
			(select coalesce(sum((h->>'a')::bigint), 0)::bigint from ai_attempt, jsonb_array_elements(held) h where state = 'uncertain'),
			(select count(*) from ai_period p join ai_budget b on b.id = p.budget_id where p.spent + p.reserved > b.limit_amount)`)
	if err != nil {
		return err
	}
	c := rows[0]
	r.AI.Calls, r.AI.Uncertain, r.AI.CostUSD = c.Calls, c.Uncertain, ai.NanoUSD(c.Ledger).String()
	r.Invariants.AI = true
	for problem, broken := range map[string]bool{
		fmt.Sprintf("%d calls for %d orders", c.Calls, c.Sagas):                                      c.Calls != c.Sagas,
		fmt.Sprintf("%d calls have no end", c.Open):                                                  c.Open != 0,
		fmt.Sprintf("%d calls that were made are not in the ledger once", c.Unbooked):                c.Unbooked != 0,
		fmt.Sprintf("%d rows of the ledger belong to no call that was made", c.Strays):               c.Strays != 0,
		fmt.Sprintf("the budget says that %d were spent, the ledger %d", c.Spent, c.Ledger):          c.Spent != c.Ledger,
		fmt.Sprintf("%d stay reserved, and calls of which nobody knows hold %d", c.Reserved, c.Held): c.Reserved != c.Held,
		fmt.Sprintf("a budget was exceeded in %d periods", c.Over):                                   c.Over != 0,
	} {
		if broken {
			r.Invariants.AI = false
			r.Problems = append(r.Problems, "ai: "+problem)
		}
	}
	return nil
}

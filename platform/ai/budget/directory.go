package budget

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/ai"
)

// directory finds the budgets of a caller. It is read only.
type directory struct {
	revision int64
	by       map[ai.Caller][]*Budget
}

// of returns the budgets that hold for a caller, in the order of their ids.
func (d directory) of(c ai.Caller) []*Budget {
	var found []*Budget
	for _, scope := range [...]ai.Caller{
		{}, {Tenant: c.Tenant}, {Tenant: c.Tenant, App: c.App}, {Tenant: c.Tenant, Key: c.Key}, c,
	} {
		for _, b := range d.by[scope] {
			if !slices.Contains(found, b) { // scopes are the same where the caller lacks something
				found = append(found, b)
			}
		}
	}
	slices.SortFunc(found, func(a, b *Budget) int { return cmp.Compare(a.ID, b.ID) })
	return found
}

// readDirectory reads all budgets when they have changed since that revision; nil:
// they have not.
func readDirectory(ctx context.Context, db querier, known int64) (*directory, error) {
	d := &directory{by: make(map[ai.Caller][]*Budget)}
	if err := db.QueryRow(ctx, "select revision from ai_budget_revision").Scan(&d.revision); err != nil {
		return nil, fmt.Errorf("read budgets: %w", err)
	}
	if d.revision == known {
		return nil, nil
	}
	rows, err := db.Query(ctx, "select "+budgetColumns+" from ai_budget order by id")
	if err != nil {
		return nil, fmt.Errorf("read budgets: %w", err)
	}
	budgets, err := pgx.CollectRows(rows, scanBudget)
	if err != nil {
		return nil, fmt.Errorf("read budgets: %w", err)
	}
	for i := range budgets {
		b := &budgets[i]
		scope := ai.Caller{Tenant: b.Tenant, App: b.App, Key: b.Key}
		d.by[scope] = append(d.by[scope], b)
	}
	return d, nil
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

const budgetColumns = "id, tenant, app, key, unit, period, limit_amount, on_uncertain, warn_at"

func scanBudget(row pgx.CollectableRow) (b Budget, err error) {
	err = row.Scan(&b.ID, &b.Tenant, &b.App, &b.Key, &b.Unit, &b.Period, &b.Limit, &b.OnUncertain, &b.WarnAt)
	return b, err
}

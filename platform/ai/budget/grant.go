package budget

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
)

// leaseShare is which part of what is left a lease takes besides what a call needs.
const leaseShare = 100

// question asks for leases. Budgets come in the order of their ids.
type question []want

// answer has what was granted of each, or why nothing was.
type answer struct {
	parts   []part
	refusal *Refusal
}

// errHolder means that this process holds no leases any more, since others took it
// for dead.
var errHolder = errors.New("the leases of this process have expired")

// take gets what a call needs: from memory, or else from the database. durable is nil
// for calls on the leases of this process.
func (k *Keeper) take(ctx context.Context, d *durable, wants []want) ([]part, error) {
	if len(wants) == 0 {
		return nil, nil
	}
	if d != nil {
		return d.take(ctx, k, wants)
	}
	k.mu.Lock()
	parts, lacking := k.takeFree(wants, k.now())
	k.mu.Unlock()
	if len(lacking) == 0 {
		k.fromMemory.Inc()
		return parts, nil
	}
	k.fromDatabase.Inc()
	// Not with ctx: what is granted to nobody would be lost. The batcher has a timeout.
	a, err := k.grants.Do(context.WithoutCancel(ctx), lacking)
	if err == nil && a.refusal == nil {
		return append(parts, a.parts...), nil
	}
	k.mu.Lock()
	k.giveBack(parts)
	k.mu.Unlock()
	if err != nil {
		return nil, unavailable(err)
	}
	return nil, a.refusal
}

// grant asks the database on behalf of several calls in one transaction. It is what
// the batcher runs, so it is called by one goroutine at a time.
func (k *Keeper) grant(ctx context.Context, asked []question) ([]answer, error) {
	k.mu.Lock()
	holder := k.holder
	k.mu.Unlock()
	begun := k.now()
	var grants [][]granted
	err := postgres.InTx(ctx, k.pool, func(tx pgx.Tx) (err error) {
		grants, err = askGrants(ctx, tx, holder, leaseShare, asked)
		return err
	})
	if err != nil {
		return nil, err
	}
	answers := make([]answer, len(asked))
	woken := false
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, wants := range asked {
		for j, g := range grants[i] {
			b := budgetOf(wants, g.budget)
			if g.refused {
				answers[i].refusal = g.refusal(b, needOf(wants, g.budget))
				woken = woken || g.first
				continue
			}
			answers[i].parts = append(answers[i].parts, k.granted(holder, b, g.starts, begun.Add(g.ends.Sub(g.now)), g.amount, wants[j].amount, begun))
		}
	}
	if woken {
		k.config.Wake()
	}
	return answers, nil
}

// granted is a row of ai_grant.
type granted struct {
	budget                 string
	starts, ends, now      time.Time
	amount                 int64
	refused, first         bool
	limit, spent, reserved int64
}

func (g *granted) refusal(b *Budget, need int64) *Refusal {
	fresh := *b
	fresh.Limit = g.limit
	return exhausted(&fresh, need, g.limit-g.spent-g.reserved, g.ends, g.ends.Sub(g.now))
}

// askGrants asks for leases, each question for all of its budgets or none. The rows of
// all are locked first, in the order of budgets, so that two transactions never wait
// for each other in a circle.
func askGrants(ctx context.Context, tx pgx.Tx, holder uuid.UUID, share int64, asked []question) ([][]granted, error) {
	var batch pgx.Batch
	if len(asked) > 1 {
		var all []string
		for _, wants := range asked {
			for _, w := range wants {
				all = append(all, w.budget.ID)
			}
		}
		batch.Queue("select from ai_holder where id = $1 for share", holder)
		batch.Queue(`
			select from ai_period where budget_id = any($1) and starts_at <= clock_timestamp() and ends_at > clock_timestamp()
			order by budget_id, starts_at for update`, all)
	}
	grants := make([][]granted, len(asked))
	for i, wants := range asked {
		budgets, needs := make([]string, len(wants)), make([]int64, len(wants))
		for j, w := range wants {
			budgets[j], needs[j] = w.budget.ID, w.amount
		}
		batch.Queue("select * from ai_grant($1, $2, $3, $4)", holder, budgets, needs, share).Query(func(rows pgx.Rows) (err error) {
			grants[i], err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (g granted, err error) {
				err = row.Scan(&g.budget, &g.starts, &g.ends, &g.now, &g.amount, &g.refused, &g.first, &g.limit, &g.spent, &g.reserved)
				return g, err
			})
			if err == nil && len(grants[i]) == 0 {
				return errHolder
			}
			return err
		})
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, err
	}
	var messages []broker.Message
	for i, wants := range asked {
		for _, g := range grants[i] {
			if g.first {
				m, err := exhaustedEvent(budgetOf(wants, g.budget), &g)
				if err != nil {
					return nil, err
				}
				messages = append(messages, m)
			}
		}
	}
	return grants, outbox.Write(ctx, tx, messages...)
}

func budgetOf(wants []want, id string) *Budget {
	for _, w := range wants {
		if w.budget.ID == id {
			return w.budget
		}
	}
	return nil
}

func needOf(wants []want, id string) int64 {
	for _, w := range wants {
		if w.budget.ID == id {
			return w.amount
		}
	}
	return 0
}

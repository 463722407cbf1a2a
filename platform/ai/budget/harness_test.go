package budget_test

import (
	"context"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// rig is a database with the books.
type rig struct {
	*testing.T
	pool   *pgxpool.Pool
	prices *price.Book
	nodes  []*node
}

func setup(t *testing.T) *rig {
	t.Helper()
	pool := postgrestest.Open(t, postgres.Config{MaxConns: 20},
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()}, postgres.MigrationSet{Owner: "ai_budget", FS: budget.Migrations()})
	prices, err := price.New(price.Overlay{})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{T: t, pool: pool, prices: prices}
}

// node is a process that keeps budgets.
type node struct {
	*budget.Keeper
	stop func() // as a process stops; its death is to be called never
}

// node starts a process and waits until it lets calls through.
func (r *rig) node(config budget.Config) *node {
	r.Helper()
	config.Prices = r.prices
	if config.LeaseFor == 0 {
		config.LeaseFor = time.Hour // a test that wants a node to be late says so
	}
	if config.Reload == 0 {
		config.Reload = 10 * time.Millisecond
	}
	config.Logger = slog.New(slog.DiscardHandler)
	k, err := budget.New(r.pool, config)
	if err != nil {
		r.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := k.Run(ctx); err != nil {
			r.Errorf("run: %v", err)
		}
	}()
	n := &node{k, func() { stop(); <-done }}
	r.Cleanup(n.stop)
	r.nodes = append(r.nodes, n)
	r.until("the node lets calls through", func() bool {
		res, err := k.Reserve(r.Context(), budget.Call{Caller: ai.Caller{Tenant: "nobody"}})
		if err == nil {
			res.Close()
		}
		return err == nil
	})
	return n
}

// dead starts a process whose loops do not run, as if it had been killed after its first
// beat.
func (r *rig) dead(config budget.Config) *budget.Keeper {
	r.Helper()
	config.Prices, config.Logger, config.LeaseFor = r.prices, slog.New(slog.DiscardHandler), time.Hour
	k, err := budget.New(r.pool, config)
	if err != nil {
		r.Fatal(err)
	}
	if err := k.Beat(r.Context()); err != nil {
		r.Fatal(err)
	}
	return k
}

// expire has the database take a process for dead, whose beat is late.
func (r *rig) expire(k *budget.Keeper) {
	r.Helper()
	if _, err := r.pool.Exec(r.Context(), "update ai_holder set expires_at = clock_timestamp() - interval '1 hour' where id = $1", k.Holder()); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) until(what string, done func() bool) {
	r.Helper()
	for limit := time.Now().Add(20 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(limit) {
			r.Fatalf("not in time: %s", what)
		}
	}
}

// put makes a budget and waits until the nodes know it.
func (r *rig) put(n *node, b budget.Budget) {
	r.Helper()
	if err := n.Put(r.Context(), b); err != nil {
		r.Fatal(err)
	}
	r.known()
}

// known waits until all nodes know of all changes of budgets.
func (r *rig) known() {
	r.Helper()
	revision := read[int64](r, "select revision from ai_budget_revision")
	for _, n := range r.nodes {
		r.until("the nodes know the budgets", func() bool { return n.Revision() >= revision })
	}
}

func read[V any](r *rig, query string, args ...any) (value V) {
	r.Helper()
	if err := r.pool.QueryRow(r.Context(), query, args...).Scan(&value); err != nil {
		r.Fatalf("%s: %v", query, err)
	}
	return value
}

// balanced checks what must hold after every transaction.
func (r *rig) balanced() {
	r.Helper()
	rows, err := r.pool.Query(r.Context(), `
		select p.budget_id, p.spent, p.reserved, coalesce(b.limit_amount, 9223372036854775807),
			coalesce((select sum(amount) from ai_lease l where l.budget_id = p.budget_id and l.starts_at = p.starts_at), 0)::bigint,
			coalesce((select sum((h->>'a')::bigint) from ai_attempt a, jsonb_array_elements(a.held) h where a.state in ('dispatched', 'uncertain')
				and h->>'b' = p.budget_id and (h->>'s')::bigint = (extract(epoch from p.starts_at) * 1000000)::bigint), 0)::bigint
		from ai_period p left join ai_budget b on b.id = p.budget_id`)
	if err != nil {
		r.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var spent, reserved, limit, leased, held int64
		if err := rows.Scan(&id, &spent, &reserved, &limit, &leased, &held); err != nil {
			r.Fatal(err)
		}
		if reserved != leased+held {
			r.Errorf("budget %s has %d reserved; leases have %d and attempts %d", id, reserved, leased, held)
		}
		if spent+reserved > limit || spent < 0 || reserved < 0 {
			r.Errorf("budget %s has %d spent and %d reserved of %d", id, spent, reserved, limit)
		}
	}
	if least := read[int64](r, "select coalesce(min(amount), 0) from ai_lease"); least < 0 {
		r.Errorf("a lease is at %d", least)
	}
	if ledger, settled := read[int64](r, "select coalesce(sum(amount), 0)::bigint from ai_ledger"), read[int64](r, "select coalesce(sum(cost), 0)::bigint from ai_attempt where state = 'settled'"); ledger != settled {
		r.Errorf("the ledger has %d, settled attempts %d", ledger, settled)
	}
	if ledger, hourly := read[int64](r, "select coalesce(sum(amount), 0)::bigint from ai_ledger"), read[int64](r, "select coalesce(sum(cost), 0)::bigint from ai_usage_hourly"); ledger != hourly {
		r.Errorf("the ledger has %d, the hourly sums %d", ledger, hourly)
	}
}

var (
	caller = ai.Caller{Tenant: "acme", App: "shop", Key: "k1"}
	model  = ai.Model{Provider: price.Simulated, Name: "m"}
	// At list prices of the simulated provider an attempt costs 0.002 at most.
	most = ai.Usage{Input: 1000, Output: 1000}
)

const mostCost = 2_000_000

func call() budget.Call {
	return budget.Call{Caller: caller, Operation: "chat", Model: "smart", Targets: []ai.Model{model}, Most: most}
}

func month(id string, limit int64) budget.Budget {
	return budget.Budget{ID: id, Tenant: "acme", Unit: budget.USD, Period: budget.Month, Limit: limit}
}

// plenty is more than any test spends.
const plenty = math.MaxInt64 / 4

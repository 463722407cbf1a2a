package budget

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of the package. They need those of the outbox beside
// them.
func Migrations() fs.FS { return migrations }

// Prices tells what models cost; *[price.Book] does.
type Prices interface {
	Lookup(m ai.Model, at time.Time) (p *price.Price, ok bool)
}

// Config of a [Keeper]. Prices is required; the zero value of every other field is
// its default.
type Config struct {
	Prices Prices
	// Name tells operators which process holds a lease: the host's name by default.
	Name string
	// Wake is called after each commit that wrote to the outbox; nil: nobody.
	Wake func()
	// NoCallEvents leaves out the events about single calls; those about budgets stay.
	NoCallEvents bool
	// LeaseFor is how long a process may go on without the database: 15 s by default.
	LeaseFor time.Duration
	// ReclaimAfter is how long after its end a lease is taken from a process that has
	// died: 45 s by default. It must be longer than a database is away as a rule, for
	// what such a process held is uncertain then.
	ReclaimAfter time.Duration
	// IdleAfter is when a lease that no call needs goes back: after 5 s by default.
	IdleAfter time.Duration
	// Reload is how often changes of budgets are looked for: every second by default.
	Reload time.Duration
	// KeepAttempts, KeepLedger and KeepUsage are how long the books go back: 90 days,
	// 800 days and 800 days by default. A month goes when all of it is older.
	KeepAttempts, KeepLedger, KeepUsage time.Duration
	Logger                              *slog.Logger
	Metrics                             prometheus.Registerer // nil: metrics are kept but not registered
}

func (c Config) withDefaults() Config {
	const day = 24 * time.Hour
	orElse := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	orElse(&c.LeaseFor, 15*time.Second)
	orElse(&c.ReclaimAfter, 45*time.Second)
	orElse(&c.IdleAfter, 5*time.Second)
	orElse(&c.Reload, time.Second)
	orElse(&c.KeepAttempts, 90*day)
	orElse(&c.KeepLedger, 800*day)
	orElse(&c.KeepUsage, 800*day)
	if c.Name == "" {
		c.Name, _ = os.Hostname() // a name for people only
	}
	if c.Wake == nil {
		c.Wake = func() {}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Limits of a keeper.
const (
	grantMax     = 64              // calls that share a transaction
	grantTimeout = 4 * time.Second // of one such transaction
	// backlogMax bounds what the books are behind. At 500 bytes each it is 50 MB.
	backlogMax = 100_000
)

// Keeper lets calls through and keeps the books. Make it with [New], and have
// [Keeper.Run] running. It is safe for concurrent use.
type Keeper struct {
	pool   *pgxpool.Pool // nil: nothing is kept
	config Config
	now    func() time.Time // time.Now, which tests move
	grants *postgres.Batcher[question, answer]
	metrics

	mu        sync.Mutex
	directory directory
	fresh     time.Time // until when the directory may be trusted
	holder    uuid.UUID // this process, as a holder of leases
	until     time.Time // when its leases expire, by this process's clock and rather too early
	leases    map[leaseKey]*lease
	current   map[string]*lease // by budget
	queue     []*Attempt        // what the books must look at
	back      []returned        // what goes back with the next look
	stopping  bool

	due      chan struct{} // capacity 1: the queue is no longer empty
	writing  sync.Mutex    // held by whoever writes this process's books
	changed  chan struct{} // capacity 1: a budget was changed here
	recorded *sync.Cond    // the queue has got shorter
}

// New returns a keeper on a database that has the tables of the package and the
// outbox. It lets nothing through before Run has reached the database.
func New(pool *pgxpool.Pool, config Config) (*Keeper, error) {
	k := Unkept(config.Prices)
	if config.Prices == nil {
		return nil, errors.New("budgets: prices are required")
	}
	k.pool, k.config = pool, config.withDefaults()
	k.grants = postgres.NewBatcher(grantMax, grantTimeout, k.grant)
	k.register(k.config.Metrics)
	return k, nil
}

// Unkept returns a keeper without a database: it has no budgets, lets every call
// through and forgets what it has cost. It needs no Run.
func Unkept(prices Prices) *Keeper {
	k := &Keeper{
		config: Config{Prices: prices}.withDefaults(), now: time.Now,
		metrics: newMetrics(),
		holder:  uuid.New(), leases: make(map[leaseKey]*lease), current: make(map[string]*lease),
		due: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}
	k.recorded = sync.NewCond(&k.mu)
	return k
}

// Reserve holds what the call can cost at most, of all budgets of its caller or of
// none. The error is a *[Refusal], or that of ctx. Mostly it needs no database; where
// it does, it waits for it to the end even when ctx ends before.
func (k *Keeper) Reserve(ctx context.Context, call Call) (*Reservation, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, wants, err := k.prepare(call)
	if err != nil {
		return nil, k.refuse(err)
	}
	if r.parts, err = k.take(ctx, nil, wants); err != nil {
		return nil, k.refuse(err)
	}
	return r, nil
}

// prepare finds the caller's budgets and what the call needs of them.
func (k *Keeper) prepare(call Call) (*Reservation, []want, error) {
	if call.ID.IsZero() {
		call.ID = ai.NewCallID()
	}
	r := &Reservation{keeper: k, call: call}
	now := k.now()
	if k.pool != nil {
		k.mu.Lock()
		usable := now.Before(k.fresh) && len(k.queue) < backlogMax && !k.stopping
		r.budgets = k.directory.of(call.Caller)
		k.mu.Unlock()
		if !usable {
			return nil, nil, unavailable(nil)
		}
	}
	if len(r.budgets) == 0 {
		return r, nil, nil
	}
	most, err := k.most(r.budgets, call)
	if err != nil {
		return nil, nil, err
	}
	return r, r.wants(most, true), nil
}

// most returns what an attempt of the call costs at most, wherever it goes.
func (k *Keeper) most(budgets []*Budget, call Call) (most ai.NanoUSD, err error) {
	var unknown []string
	for _, target := range call.Targets {
		if p, ok := k.config.Prices.Lookup(target, time.Now()); ok {
			most = max(most, p.Most(call.Most))
		} else {
			unknown = append(unknown, target.String())
		}
	}
	if b := charged(budgets); b != nil && (len(unknown) > 0 || len(call.Targets) == 0) {
		if len(unknown) == 0 {
			unknown = []string{call.Model}
		}
		return 0, unpriced(b.ID, unknown)
	}
	if call.Cap > 0 && most > call.Cap {
		return 0, &Refusal{Code: CallCap, Unit: USD, Limit: int64(call.Cap), Detail: "the call may cost $" + call.Cap.String() +
			", and its first attempt might cost $" + most.String() + "; allow fewer tokens, or more money"}
	}
	return most, nil
}

// refuse counts refusals.
func (k *Keeper) refuse(err error) error {
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		k.refused.WithLabelValues(string(refusal.Code)).Inc()
	}
	return err
}

// record puts an attempt before the books. The mutex is held.
func (k *Keeper) record(a *Attempt) {
	k.count(a)
	if k.pool == nil || a.queued || a.r.durable != nil {
		return
	}
	a.queued = true
	k.queue = append(k.queue, a)
	select {
	case k.due <- struct{}{}:
	default:
	}
}

package webhook

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/countermand/countermand/platform/pace"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/share"
)

// Sender sends what is due. Run as many processes on one database as you like: they
// share the subscriptions, and each is served by one of them.
type Sender struct {
	store  *Store
	config Config
	client *http.Client
	record *postgres.Batcher[outcome, recorded]
	slots  *slots
	wake   chan struct{} // capacity 1: a call while a look is under way is not lost

	// Of subscriptions that were given a rate and served lately. They belong to the
	// goroutine of Run.
	limiters map[uuid.UUID]*rate.Limiter
}

// NewSender returns a sender of a store. A process has one.
func NewSender(store *Store) *Sender {
	s := &Sender{
		store: store, config: store.config, client: store.config.Guard.Client(store.config.Timeouts),
		slots: newSlots(store.config.InFlightMax), wake: make(chan struct{}, 1), limiters: make(map[uuid.UUID]*rate.Limiter),
	}
	s.record = postgres.NewBatcher(256, 10*time.Second, s.store.recordAll)
	wake := func() {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	store.wake.Store(&wake)
	return s
}

// Run sends until ctx ends; it finishes the requests in hand and returns nil then. It
// survives lost connections.
func (s *Sender) Run(ctx context.Context) error {
	defer s.client.CloseIdleConnections()
	for {
		err := s.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.config.Logger.WarnContext(ctx, "webhook sender begins anew", "error", err)
		select {
		case <-time.After(min(time.Second, s.config.Poll)):
		case <-ctx.Done():
			return nil
		}
	}
}

// session owns lanes over one connection until that is lost or ctx ends.
func (s *Sender) session(ctx context.Context) error {
	conn, err := share.Connect(ctx, s.store.pool)
	if err != nil {
		return err
	}
	work := context.WithoutCancel(ctx) // a cancelled query would cost the connection and the locks
	defer func() { _ = conn.Close(work) }()
	division, err := share.Join(work, conn, "webhook/senders", lanes)
	if err != nil {
		return err
	}
	t := &turn{
		sender: s, division: division, running: make(map[uuid.UUID]*job), done: make(chan ending), idle: make(map[uuid.UUID]time.Time),
		pace: pace.Pace{Factor: 3, Max: 20 * time.Millisecond},
	}
	defer t.end()
	return t.run(ctx)
}

// limiterBurst spreads the requests of a minute over it.
const limiterBurst = 1

// limiter returns what keeps to the rate that a sink has allowed; nil: any rate.
func (s *Sender) limiter(r *row) *rate.Limiter {
	if r.allowedRate == nil {
		delete(s.limiters, r.id)
		return nil
	}
	perSecond := rate.Limit(float64(*r.allowedRate) / 60)
	l := s.limiters[r.id]
	if l == nil || l.Limit() != perSecond {
		l = rate.NewLimiter(perSecond, limiterBurst)
		s.limiters[r.id] = l
	}
	return l
}

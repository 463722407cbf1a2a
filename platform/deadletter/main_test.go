package deadletter_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/deadletter"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

type part struct {
	Name string `json:"name"`
}

var paint = events.NewCommand[part, part]("test.part.paint.v1")

// shop is a participant that writes down what it paints. Parts can be made to fail.
type shop struct {
	*consumertest.Rig
	store *deadletter.Store

	mu     sync.Mutex
	faults map[string]func(ctx context.Context) error // by name of the part
	calls  []string
}

func setup(t *testing.T, config consumertest.Config) *shop {
	t.Helper()
	s := &shop{faults: make(map[string]func(context.Context) error)}
	config.Name, config.Handlers = "paint", func(r *consumertest.Rig) []consumer.Handler {
		if _, err := r.Pool.Exec(t.Context(), "create table painted (id bigint generated always as identity, name text)"); err != nil {
			t.Fatal(err)
		}
		return []consumer.Handler{consumer.Handle(paint, s.paint)}
	}
	s.Rig = consumertest.New(t, config)
	s.store = deadletter.NewStore("paint", s.Pool)
	return s
}

func (s *shop) paint(ctx context.Context, tx pgx.Tx, p part) (part, error) {
	s.mu.Lock()
	s.calls = append(s.calls, p.Name)
	fault := s.faults[p.Name]
	s.mu.Unlock()
	if _, err := tx.Exec(ctx, "insert into painted (name) values ($1)", p.Name); err != nil {
		return p, err
	}
	if fault != nil {
		return p, fault(ctx)
	}
	return p, nil
}

var errOut = errors.New("out of paint")

func never(context.Context) error { return consumer.Terminal(errOut) }

// fail makes parts fail, and mends them with nil.
func (s *shop) fail(fault func(context.Context) error, names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		s.faults[name] = fault
	}
}

// send sends a command for each of those parts, in order, all of one key.
func (s *shop) send(key string, names ...string) (commands []events.Event) {
	s.T.Helper()
	for _, name := range names {
		e := consumertest.Command(s.T, paint, key, part{name})
		s.Send(e)
		commands = append(commands, e)
	}
	return commands
}

// wantPainted waits until that many parts are painted, and fails the test when they
// are others or in another order.
func (s *shop) wantPainted(want ...string) {
	s.T.Helper()
	s.Await(len(want), "select count(*) from painted")
	rows, _ := s.Pool.Query(s.T.Context(), "select name from painted order by id")
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || !slices.Equal(got, want) {
		s.T.Errorf("painted %q, want %q; %v", got, want, err)
	}
}

// letters waits for n letters and returns them, the oldest first.
func (s *shop) letters(n int) []deadletter.Summary {
	s.T.Helper()
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		all, err := s.store.List(s.T.Context(), deadletter.Filter{}, 0, 100)
		if err != nil {
			s.T.Fatal(err)
		}
		if len(all) == n {
			slices.Reverse(all)
			return all
		}
		if time.Now().After(limit) {
			s.T.Fatalf("%d letters, want %d: %+v", len(all), n, all)
		}
	}
}

// awaitState waits until a letter has that state after so many redrives.
func (s *shop) awaitState(id int64, state deadletter.State, redrives int) deadletter.Letter {
	s.T.Helper()
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		l, err := s.store.Get(s.T.Context(), id)
		if err != nil {
			s.T.Fatal(err)
		}
		if l.State == state && l.Redrives == redrives {
			return l
		}
		if time.Now().After(limit) {
			s.T.Fatalf("the letter is %+v", l)
		}
	}
}

func number(t *testing.T, l deadletter.Summary) int64 {
	t.Helper()
	service, id, ok := deadletter.ParseID(l.ID)
	if !ok || service != "paint" {
		t.Fatalf("id %q", l.ID)
	}
	return id
}

var byAda = deadletter.Order{By: "ada", Reason: "ticket 1"}

func (s *shop) redrive(l deadletter.Summary) {
	s.T.Helper()
	if _, err := s.store.Redrive(s.T.Context(), number(s.T, l), byAda); err != nil {
		s.T.Fatal(err)
	}
}

// wantRefused fails the test when err is not a refusal of that code.
func wantRefused(t *testing.T, err error, code string) {
	t.Helper()
	if refused, ok := errors.AsType[*deadletter.RefusalError](err); !ok || refused.Code != code {
		t.Errorf("error %v, want the refusal %s", err, code)
	}
}

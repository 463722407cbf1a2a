package consumer_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/consumer"
)

// line is a process's way to its database, which can be cut.
type line struct {
	mu      sync.Mutex
	cut     bool
	refused int
	conns   []net.Conn
}

func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if l.cut {
		l.refused++
		_ = conn.Close()
		return nil, errors.New("the line is cut")
	}
	l.conns = append(l.conns, conn)
	return conn, nil
}

func (l *line) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		for _, conn := range l.conns {
			_ = conn.Close()
		}
		l.conns = nil
	}
}

func (l *line) refusals() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused
}

// pool returns a pool of a process that reaches the rig's database through l.
func (l *line) pool(r *rig) *pgxpool.Pool {
	r.t.Helper()
	config, err := pgxpool.ParseConfig(r.pool.Config().ConnString())
	if err != nil {
		r.t.Fatal(err)
	}
	config.ConnConfig.DialFunc = l.dial
	pool, err := pgxpool.NewWithConfig(r.t.Context(), config)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(pool.Close)
	return pool
}

// What the database does to a delivery is not the delivery's fault. With one
// attempt to each, a single one that is counted shows.
func TestOutage(t *testing.T) {
	t.Parallel()
	t.Run("of the database makes no dead letters", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		var l line
		pool := l.pool(r)
		r.commands = r.processorOn(pool, r.wake, 1)
		r.on("reserve a", func(_ context.Context, _ pgx.Tx, call int) error {
			if call == 1 {
				l.set(true)
			}
			return nil
		})
		r.feedWith(pool, consumer.FeedConfig{})
		a, b, c := command(t, reserve, 0, "a"), command(t, reserve, 0, "b"), command(t, reserve, 1, "c")
		r.send(a, b, c)
		r.await("the outage to be noticed, again and again", func() bool { return l.refusals() >= 5 })
		l.set(false)
		for _, e := range []events.Event{a, b, c} {
			r.wantReply(e, "")
		}
		if n := read[int](r, "select count(*) from dead_letter"); n != 0 {
			t.Errorf("%+v", r.letters(n))
		}
	})
	for code, what := range map[string]string{"40001": "serialization failure", "40P01": "deadlock", "55P03": "lock timeout"} {
		t.Run("a "+what+" of the transaction is tried again until it passes", func(t *testing.T) {
			t.Parallel()
			r := setup(t)
			r.exec(`create sequence tries; create table contended (id int);
				create function contend() returns trigger language plpgsql as $$ begin
					if nextval('tries') < 5 then raise exception 'give way' using errcode = '` + code + `'; end if;
					return null;
				end $$;
				create constraint trigger contend after insert on contended deferrable initially deferred for each row execute function contend()`)
			r.commands = r.processor(r.wake, 1)
			r.on("reserve a", func(ctx context.Context, tx pgx.Tx, _ int) error {
				_, err := tx.Exec(ctx, "insert into contended values ($1)", 1)
				return err
			})
			r.feed()
			a, b := command(t, reserve, 0, "a"), command(t, reserve, 0, "b")
			r.send(a, b)
			r.wantReply(a, "")
			r.wantReply(b, "")
			r.wantEffects("reserve a", "reserve b")
		})
	}
}

package intake_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway/intake"
)

func TestAccept(t *testing.T) {
	pool := database(t)
	var woken atomic.Int32
	in := intake.New(pool, func() { woken.Add(1) }, nil)
	for _, one := range []struct {
		name, id, fingerprint string
		first                 string
		repeated              bool
		rows                  int
	}{
		{"without a key", "a", "", "", false, 1},
		{"with one", "b", "f1", "", false, 2},
		{"the same again", "b", "f1", "f1", true, 2},
		{"another under its key", "b", "f2", "f1", true, 2},
	} {
		first, repeated, err := in.Accept(t.Context(), command(one.id), one.fingerprint)
		if err != nil || first != one.first || repeated != one.repeated {
			t.Errorf("%s: %q %t %v", one.name, first, repeated, err)
		}
		if got := count(t, pool, "outbox"); got != one.rows {
			t.Errorf("%s: %d rows", one.name, got)
		}
	}
	if woken.Load() == 0 {
		t.Error("the relay was not woken")
	}
	if _, _, err := in.Accept(t.Context(), broker.Message{}, ""); !errors.Is(err, broker.ErrRejected) {
		t.Errorf("what no broker takes: %v", err)
	}
}

// TestOneOfManyIsTheFirst sends the same few keys from two gateways at once.
func TestOneOfManyIsTheFirst(t *testing.T) {
	pool := database(t)
	gateways := []*intake.Intake{intake.New(pool, func() {}, nil), intake.New(pool, func() {}, nil)}
	const keys, each = 20, 10
	var accepted atomic.Int32
	var wrong atomic.Pointer[string]
	firsts := make([]sync.Map, keys) // fingerprints that are called the first
	var all sync.WaitGroup
	for n := range keys * each {
		all.Go(func() {
			fingerprint := fmt.Sprint("f", n)
			first, repeated, err := gateways[n%2].Accept(t.Context(), command(fmt.Sprint("k", n%keys)), fingerprint)
			switch {
			case err != nil:
				text := err.Error()
				wrong.Store(&text)
			case repeated:
				firsts[n%keys].Store(first, true)
			default:
				accepted.Add(1)
				firsts[n%keys].Store(fingerprint, true)
			}
		})
	}
	all.Wait()
	if wrong.Load() != nil {
		t.Fatal(*wrong.Load())
	}
	if got := count(t, pool, "outbox"); got != keys || accepted.Load() != keys {
		t.Errorf("%d rows, %d accepted", got, accepted.Load())
	}
	for n := range firsts {
		var told []string
		firsts[n].Range(func(first, _ any) bool { told = append(told, first.(string)); return true })
		if len(told) != 1 {
			t.Errorf("key %d: the first is %v", n, told)
		}
	}
}

func TestOneThatFailsIsAlone(t *testing.T) {
	pool := database(t)
	in := intake.New(pool, func() {}, nil)
	if _, err := pool.Exec(t.Context(), "alter table outbox add check (position('bad'::bytea in attributes) = 0)"); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for n := range 50 {
		all.Go(func() {
			id := fmt.Sprint("c", n)
			if n == 25 {
				id = "bad"
			}
			if _, _, err := in.Accept(t.Context(), command(id), "f"); (err != nil) != (id == "bad") {
				t.Errorf("%s: %v", id, err)
			}
		})
	}
	all.Wait()
	if rows, keys := count(t, pool, "outbox"), count(t, pool, "intake_key"); rows != 49 || keys != 49 {
		t.Errorf("%d rows, %d keys", rows, keys)
	}
}

func TestADatabaseThatIsAwayConfirmsNothing(t *testing.T) {
	pool := database(t)
	in := intake.New(pool, func() {}, nil)
	pool.Close()
	if _, _, err := in.Accept(t.Context(), command("a"), ""); err == nil || errors.Is(err, broker.ErrRejected) || errors.Is(err, broker.ErrOverloaded) {
		t.Errorf("error = %v", err)
	}
}

func TestKeysAreForgottenAfterTheirCommands(t *testing.T) {
	pool := database(t)
	in := intake.New(pool, func() {}, nil)
	exec := func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	oldest := func() time.Time {
		t.Helper()
		at, err := in.Oldest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	if at := oldest(); !at.IsZero() {
		t.Errorf("in an empty outbox the oldest is of %s", at)
	}
	for id, age := range map[string]string{"published": "9 days", "waits": "8 days", "later": "7 days", "young": "1 hour"} {
		if _, _, err := in.Accept(t.Context(), command(id), "f"); err != nil {
			t.Fatal(err)
		}
		exec("update intake_key set accepted_at = clock_timestamp() - interval '" + age + "' where id = '" + id + "'")
		exec("update outbox set created_at = clock_timestamp() - interval '" + age + "' where position('" + id + "'::bytea in attributes) > 0")
	}
	exec("delete from outbox where position('waits'::bytea in attributes) = 0")
	if age := time.Since(oldest()).Round(time.Hour); age != 8*24*time.Hour {
		t.Errorf("the oldest is %s old", age)
	}
	for _, step := range []struct{ before, left string }{
		{"", "later waits young"}, // the engine cannot know what comes after the one that waits
		{"delete from outbox", "young"},
	} {
		if step.before != "" {
			exec(step.before)
		}
		if err := in.Forget(t.Context(), 6*24*time.Hour); err != nil {
			t.Fatal(err)
		}
		var left string
		if err := pool.QueryRow(t.Context(), "select string_agg(id, ' ' order by id) from intake_key").Scan(&left); err != nil || left != step.left {
			t.Errorf("after %q: %s, %v", step.before, left, err)
		}
	}
}

func TestDurability(t *testing.T) {
	pool := database(t)
	in := intake.New(pool, func() {}, nil)
	// The tests' own server does not sync, so it is told that it does where that matters.
	for setting, want := range map[string]string{"synchronous_commit = on": "fsync", "synchronous_commit = off": "memory"} {
		if _, err := pool.Exec(t.Context(), "alter database "+pool.Config().ConnConfig.Database+" set "+setting); err != nil {
			t.Fatal(err)
		}
		pool.Reset()
		got, err := in.Durability(t.Context())
		var fsync string
		if err := pool.QueryRow(t.Context(), "show fsync").Scan(&fsync); err != nil {
			t.Fatal(err)
		}
		if fsync == "off" {
			want = "memory"
		}
		if err != nil || got != want {
			t.Errorf("%s and fsync %s: %q, %v", setting, fsync, got, err)
		}
	}
}

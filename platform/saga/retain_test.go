package saga_test

import (
	"testing"
	"time"

	"github.com/countermand/countermand/platform/saga"
)

func TestRetentionDeletesOnlyWhatEndedLongAgo(t *testing.T) {
	t.Parallel()
	d := define(alpha(), beta())
	d.Retention = time.Hour
	d.Attributes = func(s trip) map[string]string { return map[string]string{"trip": s.ID} }
	b := newBench(t, d)
	if err := b.engine.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := ids(4)
	old, fresh, running, foreign := all[0], all[1], all[2], all[3]
	b.process(starts(t, all...)...)
	b.process(no(t, old, "alpha"), no(t, fresh, "alpha"), no(t, foreign, "alpha"))
	b.exec("update saga set updated_at = updated_at - interval '2 h' where id <> $1", fresh)
	b.exec("update saga set definition = 'unheard-of' where id = $1", foreign)
	deleted, err := b.engine.Retain(t.Context())
	if err != nil || deleted != 1 {
		t.Errorf("Retain() = %d, %v, want the old one", deleted, err)
	}
	for _, id := range []string{fresh, running, foreign} {
		if one[int](b, "select count(*) from saga where id = $1", id) != 1 {
			t.Errorf("saga %s is gone", id)
		}
	}
	if n := one[int](b, "select count(*) from saga_attribute where saga_id = $1", old); n != 0 {
		t.Errorf("%d attributes of a deleted saga are left", n)
	}
}

// The history lives in partitions by day, which are dropped as a whole.
func TestPartitionsComeAndGoByDay(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := b.engine.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := one[int](b, "select count(*) from pg_inherits where inhparent = 'saga_log'::regclass"); n != 9 {
		t.Errorf("%d partitions, want the default, today's and seven to come", n)
	}
	id := ids(1)[0]
	b.process(startOf(t, id))
	if n := one[int](b, "select count(*) from saga_log_default"); n != 0 {
		t.Errorf("%d entries are in the default partition", n)
	}
	b.exec("create table saga_log_20200101 partition of saga_log for values from ('2020-01-01') to ('2020-01-02')")
	b.exec("create table saga_log_20200102 partition of saga_log for values from ('2020-01-02') to ('2020-01-03')")
	in, _ := b.stored(id)
	in.CreatedAt = time.Date(2020, 1, 2, 12, 0, 0, 0, time.UTC) // it has run for years
	b.exec("update saga set day = '2020-01-02', created_at = $1", in.CreatedAt)
	b.rewrite(id, in)
	if _, err := b.engine.Retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := one[int](b, "select count(*) from pg_class where relname in ('saga_log_20200101', 'saga_log_20200102')"); n != 1 {
		t.Errorf("%d of the old partitions are left, want the one with a saga", n)
	}
	b.engine = b.another() // with an empty cache
	b.process(ok(t, id, "alpha"))
	b.want(id, saga.Running, 2)
}

func TestSagasAreFoundByTheirAttributes(t *testing.T) {
	t.Parallel()
	d := define(alpha(), beta())
	d.Attributes = func(s trip) map[string]string {
		found := map[string]string{"trip": s.ID}
		if len(s.Tickets) > 0 {
			found["ticket"] = "yes"
		}
		return found
	}
	b := newBench(t, d)
	reader := saga.NewReader(b.pool)
	all := ids(3)
	b.process(starts(t, all...)...)
	b.process(ok(t, all[1], "alpha"))
	waiting, err := reader.Waiting(t.Context())
	if err != nil || len(waiting) != 1 || waiting["trip"]["alpha"] != 2 || waiting["trip"]["beta"] != 1 {
		t.Errorf("sagas wait at %v (error %v)", waiting, err)
	}
	if page, err := reader.List(t.Context(), saga.Filter{Step: "beta"}); err != nil || len(page.Sagas) != 1 || page.Sagas[0].ID != all[1] {
		t.Errorf("those that wait at beta: %+v (error %v)", page.Sagas, err)
	}
	for _, test := range []struct {
		attributes map[string]string
		want       int
	}{
		{map[string]string{"trip": all[0]}, 1},
		{map[string]string{"ticket": "yes"}, 1},
		{map[string]string{"ticket": "yes", "trip": all[1]}, 1},
		{map[string]string{"ticket": "yes", "trip": all[2]}, 0},
		{map[string]string{"ticket": "no"}, 0},
	} {
		page, err := reader.List(t.Context(), saga.Filter{Attributes: test.attributes})
		if err != nil || len(page.Sagas) != test.want {
			t.Errorf("%v finds %d sagas (error %v), want %d", test.attributes, len(page.Sagas), err, test.want)
		}
	}
}

package saga_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/saga"
)

// shelf is a database with sagas that no engine has to advance.
type shelf struct {
	t      *testing.T
	pool   *pgxpool.Pool
	reader *saga.Reader
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	pool := database(t, nil)
	return &shelf{t, pool, saga.NewReader(pool)}
}

// put stores a saga and returns its id.
func (s *shelf) put(definition string, status saga.Status, created time.Time) string {
	s.t.Helper()
	in := saga.Instance{ID: events.NewID(), Name: definition, Version: 1, Status: status, CreatedAt: created, UpdatedAt: created}
	_, err := s.pool.Exec(s.t.Context(), `
		with row as (
			insert into saga (id, definition, version, created_at, day, revision, snapshot, hash, status, updated_at)
			values ($1, $2, 1, $4, ($4 at time zone 'UTC')::date, 7, 7, '', $3, $4) returning id, day
		)
		insert into saga_log (saga_id, seq, day, entry) select id, 7, day, $5 from row`, in.ID, definition, string(status), created, saga.WholeEntry(in))
	if err != nil {
		s.t.Fatal(err)
	}
	return in.ID
}

func (s *shelf) list(filter saga.Filter) saga.Page {
	s.t.Helper()
	page, err := s.reader.List(s.t.Context(), filter)
	if err != nil {
		s.t.Fatal(err)
	}
	return page
}

func idsOf(page saga.Page) []string {
	var all []string
	for _, in := range page.Sagas {
		all = append(all, in.ID)
	}
	return all
}

func TestReaderGet(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	id := s.put("trip", saga.Running, dawn)
	in, revision, err := s.reader.Get(t.Context(), id)
	if err != nil || in.ID != id || in.Status != saga.Running || revision != 7 {
		t.Errorf("Get() = %+v, %d, %v", in, revision, err)
	}
	for _, bad := range []string{"", "x", id + "0", events.NewID(), "'; drop table saga"} {
		if _, _, err := s.reader.Get(t.Context(), bad); !errors.Is(err, saga.ErrNotFound) {
			t.Errorf("Get(%q): %v, want ErrNotFound", bad, err)
		}
	}
	if _, err := s.pool.Exec(t.Context(), "update saga_log set entry = '{'"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.reader.Get(t.Context(), id); err == nil || errors.Is(err, saga.ErrNotFound) {
		t.Errorf("a broken history: %v", err)
	}
	if page := s.list(saga.Filter{}); len(page.Sagas) != 1 {
		t.Error("a saga with a broken history is not listed")
	}
}

func TestReaderListFiltersNewestFirst(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	at := func(n int) time.Time { return dawn.Add(time.Duration(n) * time.Second) }
	a := s.put("trip", saga.Running, at(1))
	b := s.put("trip", saga.Completed, at(3))
	c := s.put("visit", saga.Running, at(2))
	d := s.put("visit", saga.Stuck, at(4))
	for name, test := range map[string]struct {
		filter saga.Filter
		want   []string
	}{
		"all":              {saga.Filter{}, []string{d, b, c, a}},
		"by status":        {saga.Filter{Status: saga.Running}, []string{c, a}},
		"by definition":    {saga.Filter{Definition: "trip"}, []string{b, a}},
		"by both":          {saga.Filter{Status: saga.Stuck, Definition: "visit"}, []string{d}},
		"nothing":          {saga.Filter{Status: saga.Abandoned}, nil},
		"unknown status":   {saga.Filter{Status: "dancing"}, nil},
		"exactly the page": {saga.Filter{Limit: 4}, []string{d, b, c, a}},
		"negative limit":   {saga.Filter{Limit: -1}, []string{d, b, c, a}},
	} {
		page := s.list(test.filter)
		if got := idsOf(page); !slices.Equal(got, test.want) || page.Next != "" {
			t.Errorf("%s: %q, next %q, want %q", name, got, page.Next, test.want)
		}
	}
}

func TestReaderPagesLoseAndRepeatNothing(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	var old []string
	for n := range 53 {
		created := dawn.Add(time.Duration(n/5) * time.Microsecond) // five at a time are equally old
		if n%7 == 0 {
			created = created.Add(300 * time.Nanosecond) // finer than the database
		}
		old = append(old, s.put("trip", saga.Running, created))
	}
	for _, limit := range []int{1, 4, 5, 53, 54} {
		var seen []string
		filter := saga.Filter{Definition: "trip", Limit: limit}
		for pages := 0; ; pages++ {
			page := s.list(filter)
			if len(page.Sagas) > limit {
				t.Fatalf("%d sagas on a page of %d", len(page.Sagas), limit)
			}
			seen = append(seen, idsOf(page)...)
			if filter.Cursor = page.Next; filter.Cursor == "" || pages > 60 {
				break
			}
			s.put("trip", saga.Running, dawn.Add(time.Hour)) // new ones arrive meanwhile
		}
		seen = slices.DeleteFunc(seen, func(id string) bool { return !slices.Contains(old, id) })
		sorted := slices.Sorted(slices.Values(seen))
		if !slices.Equal(sorted, slices.Sorted(slices.Values(old))) {
			t.Errorf("pages of %d show %d sagas, want %d once", limit, len(seen), len(old))
		}
		if _, err := s.pool.Exec(t.Context(), "delete from saga where created_at >= $1", dawn.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReaderLimitsPages(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	_, err := s.pool.Exec(t.Context(), `
		insert into saga (id, definition, version, created_at, day, revision, snapshot, hash, status, updated_at)
		select gen_random_uuid(), 'trip', 1, now(), now(), 1, 0, '', 'running', now() from generate_series(1, 600)`)
	if err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int]int{0: 50, 600: 500} {
		if page := s.list(saga.Filter{Limit: limit}); len(page.Sagas) != want || page.Next == "" {
			t.Errorf("limit %d: %d sagas, next %q", limit, len(page.Sagas), page.Next)
		}
	}
}

func TestReaderRefusesCursorsItHasNotMade(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	encoded := func(raw string) string { return base64.RawURLEncoding.EncodeToString([]byte(raw)) }
	for _, cursor := range []string{
		"x", "%", encoded("x"), encoded("now " + tripID), encoded(" " + tripID), encoded(dawn.Format(time.RFC3339)),
		encoded(dawn.Format(time.RFC3339) + " " + fmt.Sprintf("%036d", 0)), encoded(dawn.Format(time.RFC3339) + "x" + tripID),
	} {
		if _, err := s.reader.List(t.Context(), saga.Filter{Cursor: cursor}); !errors.Is(err, saga.ErrBadCursor) {
			t.Errorf("cursor %q: %v, want ErrBadCursor", cursor, err)
		}
	}
}

func TestReaderCounts(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	counts := func() map[saga.Status]int {
		all, err := s.reader.Counts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if got := counts(); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for _, status := range []saga.Status{saga.Running, saga.Running, saga.Stuck} {
		s.put("trip", status, dawn)
	}
	if got := counts(); len(got) != 2 || got[saga.Running] != 2 || got[saga.Stuck] != 1 {
		t.Errorf("counts %v", got)
	}
}

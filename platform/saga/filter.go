package saga

import (
	"strconv"
	"strings"
	"time"
)

// Filter selects sagas for [Reader.List]; empty fields select all.
type Filter struct {
	Status     Status
	Definition string
	// Definitions selects sagas of any of them.
	Definitions []string
	// Tenant owns the sagas: the one that its gateway named.
	Tenant string
	// Unowned selects the sagas that no tenant owns.
	Unowned bool
	// Code is of the failure or trouble, such as out_of_stock; Step is where that
	// was, or a step that is waited for.
	Code string
	Step string
	// Attributes are those that the definition has set.
	Attributes map[string]string
	// CreatedAfter and CreatedBefore bound the start; UpdatedBefore finds those in
	// which nothing has happened since.
	CreatedAfter  time.Time
	CreatedBefore time.Time
	UpdatedBefore time.Time
	// Cursor continues after the last saga of a page, as Page.Next gave it.
	Cursor string
	// Limit of a page: 50 by default, at most 500.
	Limit int
}

// query is an SQL query with its arguments.
type query struct {
	sql  string
	args []any
}

// arg adds an argument and returns its placeholder.
func (q *query) arg(value any) string {
	q.args = append(q.args, value)
	return "$" + strconv.Itoa(len(q.args))
}

// query returns the query of a page, with one saga more to tell whether there is a
// next one. The index has the newest of each status, which are merged.
func (f Filter) query() (*query, error) {
	q := &query{}
	statuses := []string{string(f.Status)}
	if f.Status == "" {
		statuses = []string{string(Running), string(Compensating), string(Completed), string(Compensated), string(Stuck), string(Abandoned)}
	}
	where := []string{"s.status = each"}
	if f.Definition != "" {
		where = append(where, "s.definition = "+q.arg(f.Definition))
	}
	if f.Definitions != nil {
		where = append(where, "s.definition = any("+q.arg(f.Definitions)+")")
	}
	if f.Tenant != "" {
		where = append(where, "s.id in (select saga_id from saga_attribute where name = "+q.arg(tenantAttribute)+" and value = "+q.arg(f.Tenant)+")")
	}
	if f.Unowned {
		where = append(where, "not exists (select from saga_attribute as a where a.saga_id = s.id and a.name = "+q.arg(tenantAttribute)+")")
	}
	if f.Code != "" {
		where = append(where, "s.code = "+q.arg(f.Code))
	}
	if f.Step != "" {
		step := q.arg(f.Step)
		where = append(where, "(s.step = "+step+" or s.step like "+step+" || '[%' or "+step+" = any(string_to_array(s.waits, ' ')))")
	}
	for _, name := range sortedKeys(f.Attributes) {
		where = append(where, "s.id in (select saga_id from saga_attribute where name = "+q.arg(name)+" and value = "+q.arg(f.Attributes[name])+")")
	}
	if !f.CreatedAfter.IsZero() {
		where = append(where, "s.created_at >= "+q.arg(f.CreatedAfter))
	}
	if !f.CreatedBefore.IsZero() {
		where = append(where, "s.created_at < "+q.arg(f.CreatedBefore))
	}
	if !f.UpdatedBefore.IsZero() {
		where = append(where, "s.updated_at < "+q.arg(f.UpdatedBefore))
	}
	if f.Cursor != "" {
		at, id, err := parseCursor(f.Cursor)
		if err != nil {
			return nil, err
		}
		where = append(where, "(s.created_at, s.id) < ("+q.arg(at)+", "+q.arg(id)+")")
	}
	limit := q.arg(f.Limit + 1)
	q.sql = `
		select page.* from unnest(` + q.arg(statuses) + `::text[]) as each cross join lateral (
			select s.id::text, s.definition, s.version, s.status, s.revision, s.waits, s.step, s.code, s.created_at, s.updated_at
			from saga as s where ` + strings.Join(where, " and ") + `
			order by s.created_at desc, s.id desc limit ` + limit + `
		) as page
		order by page.created_at desc, page.id::uuid desc limit ` + limit
	return q, nil
}

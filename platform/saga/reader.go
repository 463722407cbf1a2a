package saga

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrNotFound means that there is no saga of that id.
var ErrNotFound = errors.New("saga not found")

// Reader reads sagas for the gateway and for operators. It needs no more than
// the right to select.
type Reader struct{ pool *pgxpool.Pool }

// NewReader returns a reader on the engine's database.
func NewReader(pool *pgxpool.Pool) *Reader { return &Reader{pool: pool} }

// Get returns the saga of that id and its revision; [ErrNotFound] when there is
// none or the id is no UUID.
func (r *Reader) Get(ctx context.Context, id string) (Instance, int64, error) {
	key, err := uuid.Parse(id)
	if err != nil {
		return Instance{}, 0, ErrNotFound
	}
	var (
		document []byte
		revision int64
		in       Instance
	)
	err = r.pool.QueryRow(ctx, "select document, revision from saga where id = $1", key).Scan(&document, &revision)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Instance{}, 0, ErrNotFound
	case err != nil:
		return Instance{}, 0, fmt.Errorf("read saga %s: %w", id, err)
	}
	if err := json.Unmarshal(document, &in); err != nil {
		return Instance{}, 0, fmt.Errorf("document of saga %s: %w", id, err)
	}
	return in, revision, nil
}

// Filter selects sagas for [Reader.List]; empty fields select all.
type Filter struct {
	Status     Status
	Definition string
	// Cursor continues after the last saga of a page, as Page.Next gave it.
	Cursor string
	// Limit of a page: 50 by default, at most 500.
	Limit int
}

// Page is a part of a list, newest first.
type Page struct {
	Sagas []Instance
	// Next is the cursor of the next page; empty when this is the last.
	Next string
}

// List returns a page of sagas, newest first.
func (r *Reader) List(ctx context.Context, filter Filter) (Page, error) {
	if filter.Limit <= 0 {
		filter.Limit = 50
	}
	filter.Limit = min(filter.Limit, 500)
	var (
		at time.Time
		id uuid.UUID
	)
	if filter.Cursor != "" {
		var err error
		if at, id, err = parseCursor(filter.Cursor); err != nil {
			return Page{}, err
		}
	}
	rows, err := r.pool.Query(ctx, `
		select document from saga
		where ($1 = '' or status = $1) and ($2 = '' or definition = $2)
			and ($3 or (created_at, id) < ($4, $5))
		order by created_at desc, id desc limit $6`,
		string(filter.Status), filter.Definition, filter.Cursor == "", at, id, filter.Limit+1)
	if err != nil {
		return Page{}, fmt.Errorf("list sagas: %w", err)
	}
	documents, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return Page{}, fmt.Errorf("list sagas: %w", err)
	}
	var page Page
	for _, document := range documents {
		var in Instance
		if err := json.Unmarshal(document, &in); err != nil {
			return Page{}, fmt.Errorf("list sagas: %w", err)
		}
		page.Sagas = append(page.Sagas, in)
	}
	if len(page.Sagas) > filter.Limit {
		page.Sagas = page.Sagas[:filter.Limit]
		last := page.Sagas[filter.Limit-1]
		page.Next = formatCursor(last.CreatedAt, last.ID)
	}
	return page, nil
}

// Counts returns how many sagas have each status.
func (r *Reader) Counts(ctx context.Context) (map[Status]int, error) {
	rows, err := r.pool.Query(ctx, "select status, count(*) from saga group by status")
	if err != nil {
		return nil, fmt.Errorf("count sagas: %w", err)
	}
	counts := make(map[Status]int)
	var (
		status Status
		n      int
	)
	if _, err := pgx.ForEachRow(rows, []any{&status, &n}, func() error { counts[status] = n; return nil }); err != nil {
		return nil, fmt.Errorf("count sagas: %w", err)
	}
	return counts, nil
}

// ErrBadCursor means that a cursor was not made by [Reader.List].
var ErrBadCursor = errors.New("cursor is not one that a list returned")

func formatCursor(at time.Time, id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(at.UTC().Format(time.RFC3339Nano) + " " + id))
}

func parseCursor(cursor string) (at time.Time, id uuid.UUID, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(raw) < 37 {
		return at, id, ErrBadCursor
	}
	cut := len(raw) - 37 // a space and a UUID
	if at, err = time.Parse(time.RFC3339Nano, string(raw[:cut])); err != nil || raw[cut] != ' ' {
		return at, id, ErrBadCursor
	}
	if id, err = uuid.Parse(string(raw[cut+1:])); err != nil {
		return at, id, ErrBadCursor
	}
	return at, id, nil
}

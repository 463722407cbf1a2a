package saga

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
)

// ErrNotFound means that there is no saga of that id.
var ErrNotFound = errors.New("saga not found")

// Reader reads sagas for the gateway and for operators. It needs no more than
// the right to select.
type Reader struct {
	pool   *pgxpool.Pool
	graphs sync.Map // programKey to Graph
}

// NewReader returns a reader on the engine's database.
func NewReader(pool *pgxpool.Pool) *Reader { return &Reader{pool: pool} }

// Get returns the saga of that id and its revision, with the steps that it has not
// come to yet as pending; [ErrNotFound] when there is none or the id is no UUID.
func (r *Reader) Get(ctx context.Context, id string) (Instance, int64, error) {
	saga, err := r.load(ctx, id)
	if err != nil {
		return Instance{}, 0, err
	}
	graph, err := r.Graph(ctx, saga.Name, saga.Version)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Instance{}, 0, err
	}
	in := saga.Instance
	in.Steps = graph.steps(in.Steps)
	return in, saga.revision, nil
}

func (r *Reader) load(ctx context.Context, id string) (*stored, error) {
	key, err := uuid.Parse(id)
	if err != nil {
		return nil, ErrNotFound
	}
	found, _, err := load(ctx, r.pool, []uuid.UUID{key})
	if err != nil {
		return nil, err
	}
	saga, ok := found[key]
	if !ok {
		return nil, ErrNotFound
	}
	return saga, saga.unreadable
}

// Graph returns the shape of a definition that an engine has run, version 0 for
// the newest; [ErrNotFound] when there is none.
func (r *Reader) Graph(ctx context.Context, name string, version int) (Graph, error) {
	key := programKey{name, version}
	if known, ok := r.graphs.Load(key); ok {
		return known.(Graph), nil
	}
	var g Graph
	err := r.pool.QueryRow(ctx, `
		select graph from saga_definition where name = $1 and ($2 = 0 or version = $2) order by version desc limit 1`, name, version).Scan(&g)
	if errors.Is(err, pgx.ErrNoRows) {
		return g, ErrNotFound
	} else if err != nil {
		return g, fmt.Errorf("read definition %s: %w", name, err)
	}
	if version > 0 {
		r.graphs.Store(key, g) // a version does not change
	}
	return g, nil
}

// Graphs returns the shapes of all definitions, by name and version.
func (r *Reader) Graphs(ctx context.Context) ([]Graph, error) {
	rows, err := r.pool.Query(ctx, "select graph from saga_definition order by name, version")
	if err != nil {
		return nil, fmt.Errorf("read definitions: %w", err)
	}
	graphs, err := pgx.CollectRows(rows, pgx.RowTo[Graph])
	if err != nil {
		return nil, fmt.Errorf("read definitions: %w", err)
	}
	return graphs, nil
}

// steps returns the records in the order of the definition, and pending ones of
// the nodes that will surely be come to.
func (g *Graph) steps(records []StepRecord) []StepRecord {
	byName := make(map[string][]StepRecord)
	for _, r := range records {
		name, _, _ := strings.Cut(r.Name, "[")
		byName[name] = append(byName[name], r)
	}
	all := make([]StepRecord, 0, len(records))
	var visit func(n *GraphNode, surely bool)
	visit = func(n *GraphNode, surely bool) {
		if n.Name != "" {
			if known := byName[n.Name]; len(known) > 0 {
				all = append(all, known...)
				delete(byName, n.Name)
			} else if surely {
				kind := n.Kind
				if kind == string(kindStep) {
					kind = ""
				}
				all = append(all, StepRecord{Name: n.Name, Kind: kind, Status: StepPending})
			}
			surely = false // what is inside of it depends
		}
		for i := range n.Nodes {
			visit(&n.Nodes[i], surely)
		}
	}
	visit(&g.Flow, true)
	for _, r := range records { // of a definition that is not known
		name, _, _ := strings.Cut(r.Name, "[")
		if _, left := byName[name]; left {
			all = append(all, r)
		}
	}
	return all
}

// Summary is a saga in a list.
type Summary struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Version  int    `json:"version"`
	Status   Status `json:"status"`
	Revision int64  `json:"revision"`
	// Waits are the steps that an answer is awaited for.
	Waits []string `json:"waits,omitempty"`
	// Step and Code tell where and why it failed or is stuck.
	Step      string      `json:"step,omitempty"`
	Code      events.Code `json:"code,omitempty"`
	CreatedAt time.Time   `json:"created_at"`
	UpdatedAt time.Time   `json:"updated_at"`
}

// Page is a part of a list, newest first.
type Page struct {
	Sagas []Summary
	// Next is the cursor of the next page; empty when this is the last.
	Next string
}

// List returns a page of sagas, newest first. Sagas are found by their status and
// age, or by an attribute; a page of anything else reads back from the newest until
// it is full.
func (r *Reader) List(ctx context.Context, filter Filter) (Page, error) {
	if filter.Limit <= 0 {
		filter.Limit = 50
	}
	filter.Limit = min(filter.Limit, 500)
	q, err := filter.query()
	if err != nil {
		return Page{}, err
	}
	rows, err := r.pool.Query(ctx, q.sql, q.args...)
	if err != nil {
		return Page{}, fmt.Errorf("list sagas: %w", err)
	}
	var page Page
	page.Sagas, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Summary, err error) {
		var waits string
		err = row.Scan(&s.ID, &s.Name, &s.Version, &s.Status, &s.Revision, &waits, &s.Step, &s.Code, &s.CreatedAt, &s.UpdatedAt)
		s.Waits, s.CreatedAt, s.UpdatedAt = strings.Fields(waits), s.CreatedAt.UTC(), s.UpdatedAt.UTC()
		return s, err
	})
	if err != nil {
		return Page{}, fmt.Errorf("list sagas: %w", err)
	}
	if len(page.Sagas) > filter.Limit {
		page.Sagas = page.Sagas[:filter.Limit]
		last := page.Sagas[filter.Limit-1]
		page.Next = formatCursor(last.CreatedAt, last.ID)
	}
	return page, nil
}

// Counts returns how many sagas have each status. It reads them all: 0.1 s for a
// million.
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

// Waiting returns how many sagas that have not ended wait at each step, by
// definition.
func (r *Reader) Waiting(ctx context.Context) (map[string]map[string]int, error) {
	rows, err := r.pool.Query(ctx, `
		select s.definition, w.step, count(*)
		from saga_live as l join saga as s on s.id = l.saga_id, unnest(string_to_array(s.waits, ' ')) as w (step)
		group by 1, 2`)
	if err != nil {
		return nil, fmt.Errorf("count waiting sagas: %w", err)
	}
	counts := make(map[string]map[string]int)
	var (
		definition, step string
		n                int
	)
	_, err = pgx.ForEachRow(rows, []any{&definition, &step, &n}, func() error {
		if counts[definition] == nil {
			counts[definition] = make(map[string]int)
		}
		counts[definition][step] = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count waiting sagas: %w", err)
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

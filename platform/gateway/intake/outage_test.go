package intake_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/gateway/intake"
	"github.com/countermand/countermand/platform/outbox"
)

// patience bounds what a test waits for that should come soon.
const patience = 2 * time.Minute

// engine knows the operations whose commands it has got from the broker.
type engine struct {
	mu  sync.Mutex
	got map[string]events.Event
	all []string // ids, in the order in which they came, with repeats
}

// Get implements [gateway.Operations].
func (e *engine) Get(_ context.Context, id string) (gateway.Operation, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	event, ok := e.got[id]
	if !ok {
		return gateway.Operation{}, gateway.ErrNotFound
	}
	return gateway.Operation{
		ID: id, Command: event.Type, Status: gateway.StatusCompleted, Fingerprint: event.Extension("fingerprint"), Result: event.Data, Revision: 1,
		CreatedAt: event.Time, UpdatedAt: event.Time,
	}, nil
}

// Changed implements [gateway.Operations].
func (e *engine) Changed(ctx context.Context, seen []gateway.Seen) (all []gateway.Operation, err error) {
	for _, one := range seen {
		if op, err := e.Get(ctx, one.ID); err == nil && op.Revision != one.Revision {
			all = append(all, op)
		}
	}
	return all, nil
}

// List implements [gateway.Operations].
func (e *engine) List(context.Context, gateway.OperationFilter) (gateway.OperationPage, error) {
	return gateway.OperationPage{}, nil
}

func (e *engine) run(ctx context.Context, reader broker.Reader) {
	for {
		deliveries, err := reader.Next(ctx, 256)
		if err != nil {
			return
		}
		e.mu.Lock()
		for i := range deliveries {
			event := deliveries[i].Event
			e.all = append(e.all, event.ID)
			if _, repeated := e.got[event.ID]; !repeated {
				e.got[event.ID] = event
			}
		}
		e.mu.Unlock()
	}
}

const table = `
version: 1
routes:
  - {id: by-outbox, kind: command, match: POST /v1/things, command: test.thing.begin.v1, accept: outbox, wait: {max: 2m}, outcome: {completed: {status: 201}}}
  - {id: keyed, kind: command, match: PUT /v1/things, command: test.thing.begin.v1, accept: outbox, key: body.of}
  - {id: by-broker, kind: command, match: POST /v1/others, command: test.other.begin.v1}
`

// edge is a gateway with an intake, between a database, a broker and an engine.
type edge struct {
	t      *testing.T
	broker *embeddedtest.RestartableNATS
	engine *engine
	pool   *pgxpool.Pool
	intake *intake.Intake
	url    string

	signals broker.Reader
}

func setup(t *testing.T, change func(*gateway.Config)) *edge {
	t.Helper()
	pool := database(t)
	e := &edge{t: t, pool: pool, broker: embeddedtest.Restartable(t), engine: &engine{got: make(map[string]events.Event)}}
	b, err := natsbroker.New(e.broker.Connect(t), natsbroker.Config{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	topics := []events.Topic{events.CommandTopic(commandType), events.CommandTopic("test.other.begin.v1"), events.Signals}
	if err := b.Ensure(t.Context(), topics...); err != nil {
		t.Fatal(err)
	}
	reader, err := b.Tail(t.Context(), topics[0])
	if err != nil {
		t.Fatal(err)
	}
	if e.signals, err = b.Tail(t.Context(), events.Signals); err != nil {
		t.Fatal(err)
	}
	relay := outbox.NewRelay(pool, b, outbox.RelayConfig{Name: "gateway", Poll: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { e.engine.run(ctx, reader) })
	parts.Go(func() { _ = relay.Run(ctx) })
	committer := broker.NewCommitter(b, 0)
	t.Cleanup(func() {
		stop()
		parts.Wait()
		reader.Close()
		e.signals.Close()
		committer.Close()
	})
	schema := []byte(`{"type":"object","properties":{"of":{"type":"string"}},"required":["of"]}`)
	parsed, err := gateway.ParseTable("routes.yaml", []byte(table), gateway.Contracts{Commands: []gateway.Command{
		{Type: commandType, Topic: topics[0], Schema: schema, Saga: true},
		{Type: "test.other.begin.v1", Topic: topics[1], Schema: schema, Saga: true},
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	config := gateway.Config{
		Secret: []byte("a secret of enough bytes"), Logger: slog.New(slog.DiscardHandler), Durability: "replicated", IntakeDurability: "fsync",
		PublishTimeout: time.Second, PollInterval: 50 * time.Millisecond,
	}
	if change != nil {
		change(&config)
	}
	e.intake = intake.New(pool, relay.Wake, nil)
	g, err := gateway.New(config, parsed, gateway.Deps{
		Publisher: committer, Operations: e.engine, Lookup: b.Lookup, Intake: e.intake,
	})
	if err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tenant := r.Header.Get("X-Test-Tenant"); tenant != "" {
			r = r.WithContext(gateway.WithIdentity(r.Context(), gateway.Identity{Tenant: tenant, Client: "c"}))
		}
		g.ServeHTTP(w, r)
	}))
	t.Cleanup(listener.Close)
	e.url = listener.URL
	return e
}

type answer struct {
	status int
	header http.Header
	code   string
	op     gateway.Operation
}

// send sends a request; headers are given as "Name: value".
func (e *edge) send(method, path, body string, headers ...string) (a answer) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, e.url+path, strings.NewReader(body))
	if err != nil {
		e.t.Error(err)
		return a
	}
	r.Header.Set("Content-Type", "application/json")
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		e.t.Error(err)
		return a
	}
	defer response.Body.Close()
	a.status, a.header = response.StatusCode, response.Header
	var problem gateway.Problem
	if a.status < http.StatusBadRequest {
		err = json.NewDecoder(response.Body).Decode(&a.op)
	} else {
		err = json.NewDecoder(response.Body).Decode(&problem)
		a.code = problem.Code
	}
	if err != nil {
		e.t.Error(err)
	}
	return a
}

func (e *edge) want(a answer, status int, code string) {
	e.t.Helper()
	if a.status != status || a.code != code {
		e.t.Errorf("answered %d %q, want %d %q", a.status, a.code, status, code)
	}
}

// TestTheEdgeAcceptsWhileTheBrokerIsAway stops the broker under load, and accounts for
// each operation once it is back.
func TestTheEdgeAcceptsWhileTheBrokerIsAway(t *testing.T) {
	e := setup(t, nil)
	e.broker.Stop()
	e.want(e.send(http.MethodPost, "/v1/others", `{"of":"x"}`), http.StatusServiceUnavailable, "broker_unavailable")

	const clients, each = 8, 25
	var (
		all sync.WaitGroup
		mu  sync.Mutex
		ids []string
	)
	for client := range clients {
		all.Go(func() {
			for n := range each {
				var headers []string
				if n%2 == 0 {
					headers = []string{fmt.Sprintf("Idempotency-Key: %d-%d", client, n)}
				}
				a := e.send(http.MethodPost, "/v1/things", fmt.Sprintf(`{"of":"%d-%d"}`, client, n), headers...)
				if a.status != http.StatusAccepted || a.header.Get("Countermand-Durability") != "fsync" {
					t.Errorf("answered %d %v", a.status, a.header)
				}
				mu.Lock()
				ids = append(ids, a.op.ID)
				mu.Unlock()
			}
		})
	}
	all.Wait()

	const body, other = `{"of":"one"}`, `{"of":"another"}`
	const key = "Idempotency-Key: k"
	first := e.send(http.MethodPost, "/v1/things", body, key)
	ids = append(ids, first.op.ID)
	again := e.send(http.MethodPost, "/v1/things", body, key)
	if e.want(again, http.StatusAccepted, ""); again.op.ID != first.op.ID || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the same request again: %+v", again)
	}
	e.want(e.send(http.MethodPost, "/v1/things", other, key), http.StatusUnprocessableEntity, "idempotency_key_reused")
	e.want(e.send(http.MethodPost, "/v1/things", body, key, "Prefer: handling=strict"), http.StatusConflict, "operation_unfinished")
	generic := e.send(http.MethodPost, "/v1/commands/"+commandType, body, "X-Test-Tenant: acme", key)
	e.want(generic, http.StatusAccepted, "")
	tenants := e.send(http.MethodPost, "/v1/things", body, "X-Test-Tenant: acme", key)
	if e.want(tenants, http.StatusAccepted, ""); tenants.op.ID == first.op.ID {
		t.Error("a tenant got another's operation")
	}
	business := e.send(http.MethodPut, "/v1/things", body)
	e.want(business, http.StatusAccepted, "")
	e.want(e.send(http.MethodPut, "/v1/things", `{"of":"one","more":1}`), http.StatusConflict, "business_key_in_use")
	ids = append(ids, generic.op.ID, tenants.op.ID, business.op.ID)
	if got := e.send(http.MethodGet, "/v1/operations/"+first.op.ID, ""); got.status != http.StatusOK || got.op.Status != gateway.StatusAccepted {
		t.Errorf("an operation that waits: %+v", got)
	}
	e.want(e.send(http.MethodGet, "/v1/operations/"+tenants.op.ID, "", "X-Test-Tenant: other"), http.StatusNotFound, "operation_not_found")

	waited := make(chan answer, 1)
	go func() { waited <- e.send(http.MethodPost, "/v1/things", `{"of":"waits"}`, "Prefer: wait=100") }()
	time.Sleep(50 * time.Millisecond) // so that it waits, which changes nothing for the rest
	e.broker.Start(t)
	last := <-waited
	if e.want(last, http.StatusCreated, ""); last.op.Status != gateway.StatusCompleted {
		t.Errorf("who waited for the broker got %+v", last)
	}
	ids = append(ids, last.op.ID)
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		e.engine.mu.Lock()
		got := len(e.engine.got)
		e.engine.mu.Unlock()
		if got >= len(ids) {
			break
		}
		if time.Since(began) > patience {
			t.Fatalf("of %d commands the engine got %d", len(ids), got)
		}
	}
	e.engine.mu.Lock()
	defer e.engine.mu.Unlock()
	if len(e.engine.got) != len(ids) || len(e.engine.all) != len(ids) {
		t.Errorf("%d were accepted; the engine got %d, in %d deliveries", len(ids), len(e.engine.got), len(e.engine.all))
	}
	for _, id := range ids {
		event, ok := e.engine.got[id]
		if !ok {
			t.Errorf("operation %s was accepted and lost", id)
		}
		if tenant := event.Extension(events.TenantExtension); (tenant == "acme") != (id == tenants.op.ID || id == generic.op.ID) {
			t.Errorf("operation %s is of the tenant %q", id, tenant)
		}
	}
}

// TestACancelGoesTheWayOfItsCommand takes an operation back whose command still waits for
// the broker.
func TestACancelGoesTheWayOfItsCommand(t *testing.T) {
	e := setup(t, nil)
	e.broker.Stop()
	a := e.send(http.MethodPost, "/v1/things", `{"of":"x"}`)
	e.want(a, http.StatusAccepted, "")
	cancelled := e.send(http.MethodDelete, "/v1/operations/"+a.op.ID, "")
	if e.want(cancelled, http.StatusAccepted, ""); cancelled.header.Get("Countermand-Durability") != "fsync" {
		t.Errorf("the answer to the cancel tells %v", cancelled.header)
	}
	e.broker.Start(t)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	got, err := e.signals.Next(ctx, 10)
	if err != nil || len(got) != 1 || got[0].Event.Type != events.CancelType || got[0].Event.CorrelationID != a.op.ID {
		t.Errorf("the engine is told %+v, %v; want the cancel of %s", got, err, a.op.ID)
	}
	if other := e.send(http.MethodPost, "/v1/others", `{"of":"x"}`); other.status != http.StatusAccepted || other.header.Get("Countermand-Durability") != "replicated" {
		t.Errorf("a command for the broker: %+v", other)
	}
}

// TestAnOldOperationThatWaitsIsNotGone has the broker away for longer than an operation
// may be unknown to the engine.
func TestAnOldOperationThatWaitsIsNotGone(t *testing.T) {
	e := setup(t, func(c *gateway.Config) { c.AcceptedAgeMax = 1 })
	e.broker.Stop()
	a := e.send(http.MethodPost, "/v1/things", `{"of":"x"}`)
	e.want(a, http.StatusAccepted, "")
	path := "/v1/operations/" + a.op.ID
	if got := e.send(http.MethodGet, path, ""); got.status != http.StatusOK || got.op.Status != gateway.StatusAccepted {
		t.Errorf("while it waits: %+v", got)
	}
	if err := e.intake.Note(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.broker.Start(t)
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		got := e.send(http.MethodGet, path, "")
		if got.status != http.StatusOK || time.Since(began) > patience {
			t.Fatalf("after it has waited: %+v", got)
		}
		if got.op.Status == gateway.StatusCompleted {
			break
		}
	}
	e.engine.mu.Lock()
	clear(e.engine.got) // as retention does
	e.engine.mu.Unlock()
	if _, err := e.pool.Exec(t.Context(), "update intake_backlog set noted_at = clock_timestamp() - interval '25 hours'"); err != nil {
		t.Fatal(err)
	}
	e.want(e.send(http.MethodGet, path, ""), http.StatusGone, "operation_expired")
}

package admin_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/apikey"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/deadletter"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/outbox/operate"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/postgres/postgrestest"
	"github.com/countermand/countermand/platform/saga"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

type (
	rental struct {
		Car  string `json:"car"`
		Keys int    `json:"keys,omitempty"`
	}
	handed struct {
		Keys int `json:"keys"`
	}
)

var (
	rent    = events.NewCommand[rental, rental]("test.rental.begin.v1")
	hold    = events.NewCommand[rental, handed]("test.car.hold.v1", "gone")
	release = events.NewCommand[rental, events.None]("test.car.release.v1")
	hand    = events.NewCommand[rental, events.None]("test.car.hand.v1")
	signed  = events.NewFact[handed]("test.rental.signed.v1")
)

// definition holds a car, awaits a signature and hands the car over.
var definition = saga.Definition[rental]{
	Name: "rental", Version: 1,
	Start:      saga.On(rent, func(_ string, r rental) rental { return r }, func(r rental) rental { return r }),
	Attributes: func(r rental) map[string]string { return map[string]string{"car": r.Car} },
	Flow: saga.Sequence[rental]{
		saga.Step[rental]{
			Name: "hold-car",
			Do:   saga.Call(hold, func(r rental) rental { return r }, func(r *rental, h handed) { r.Keys = h.Keys }),
			Undo: saga.Undo(hold, release, func(_ rental, sent saga.Sent[rental, handed]) rental { return sent.Request }),
		},
		saga.Await[rental]{Name: "signature", Timeout: time.Hour, For: saga.Signal(signed, func(r *rental, h handed) { r.Keys += h.Keys })},
		saga.Step[rental]{Name: "hand-over", Do: saga.Call(hand, func(r rental) rental { return r }, nil), Pivot: true},
	},
}

// office is an engine with its admin API.
type office struct {
	t      *testing.T
	pool   *pgxpool.Pool
	engine *saga.Engine
	server *httptest.Server
	broker broker.Broker
}

// newBroker is a broker of the test's own.
func (o *office) newBroker() broker.Broker {
	o.t.Helper()
	conn, err := embeddedtest.NATS(o.t).Connect()
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(conn.Close)
	if o.broker, err = natsbroker.New(conn, natsbroker.Config{Partitions: 2}); err != nil {
		o.t.Fatal(err)
	}
	return o.broker
}

func newOffice(t *testing.T) *office {
	t.Helper()
	pool := postgrestest.Open(t, postgres.Config{Params: saga.SessionParams(), MaxConns: 8},
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()},
		postgres.MigrationSet{Owner: "consumer", FS: consumer.Migrations()},
		postgres.MigrationSet{Owner: "apikey", FS: apikey.Migrations()},
		postgres.MigrationSet{Owner: "saga", FS: saga.Migrations()})
	engine, err := saga.NewEngine(pool, saga.EngineConfig{Logger: slog.New(slog.DiscardHandler)}, definition)
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	o := &office{t: t, pool: pool, engine: engine}
	admin.Register(mux, admin.Config{Reader: saga.NewReader(pool), Operator: engine, Logger: slog.New(slog.DiscardHandler)})
	messaging := new(admin.Messaging)
	messaging.AddDeadLetters(deadletter.NewStore("office", pool), o.newBroker())
	messaging.AddOutbox(operate.New("office", pool, nil))
	admin.RegisterKeys(mux, apikey.NewStore(pool), slog.New(slog.DiscardHandler))
	admin.RegisterMessaging(mux, messaging, slog.New(slog.DiscardHandler))
	o.server = httptest.NewServer(mux)
	t.Cleanup(o.server.Close)
	return o
}

// begin begins a saga of that car.
func (o *office) begin(car string) (id string) {
	o.t.Helper()
	err := postgres.InTx(o.t.Context(), o.pool, func(tx pgx.Tx) (err error) {
		id, err = saga.Begin(o.t.Context(), o.engine, tx, rent, car, rental{Car: car})
		return err
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return id
}

// sent returns how many messages of a type have been written.
func (o *office) sent(messageType string) (n int) {
	o.t.Helper()
	err := o.pool.QueryRow(o.t.Context(), "select count(*) from outbox where position(convert_to($1, 'utf8') in attributes) > 0", messageType).Scan(&n)
	if err != nil {
		o.t.Fatal(err)
	}
	return n
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

// do makes a request. Each header is "Name: value".
func (o *office) do(method, path, body string, headers ...string) answer {
	o.t.Helper()
	return o.doCtx(o.t.Context(), method, path, body, headers...)
}

func (o *office) doCtx(ctx context.Context, method, path, body string, headers ...string) answer {
	o.t.Helper()
	request, err := http.NewRequestWithContext(ctx, method, o.server.URL+path, strings.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Host" {
			request.Host = value
		}
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		o.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(content)}
}

// decode reads the body of an answer of status 200.
func decode[T any](o *office, a answer) (value T) {
	o.t.Helper()
	if a.status != http.StatusOK {
		o.t.Fatalf("answered %d %s", a.status, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &value); err != nil {
		o.t.Fatalf("%v in %s", err, a.body)
	}
	return value
}

// problem checks that an answer is a problem document of that status and code.
func (o *office) problem(a answer, status int, code string) {
	o.t.Helper()
	var p admin.Problem
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.status != status || p.Status != status || p.Code != code ||
		p.Detail == "" || p.Title == "" || !strings.HasSuffix(p.Type, ":"+code) || a.header.Get("Content-Type") != "application/problem+json" {
		o.t.Errorf("answered %d %s, want the problem %d %s", a.status, a.body, status, code)
	}
}

// setAside makes a dead letter and a dead row of the outbox, both of the number 1.
func (o *office) setAside() {
	o.t.Helper()
	event, err := hold.New("e1", "/test", rental{Car: "a"}, time.Now())
	if err != nil {
		o.t.Fatal(err)
	}
	var batch pgx.Batch
	consumer.QueueDeadLetter(&batch, "office", &broker.Delivery{Topic: hold.Topic(), Offset: 1, Event: event}, 3, io.EOF)
	batch.Queue(`insert into outbox_dead (id, lane, publish_id, topic, attributes, data, created_at, error)
		values (1, 0, 'p', $1, $2, $3, now(), 'too large')`, string(hold.Topic()), events.AppendAttributes(nil, &event), event.Data)
	if err := o.pool.SendBatch(o.t.Context(), &batch).Close(); err != nil {
		o.t.Fatal(err)
	}
}

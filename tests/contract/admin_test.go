// Package contract holds the OpenAPI document of the admin API against its
// specification, and against what the API answers.
package contract

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/errors"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/admin"
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

func load(t *testing.T, content []byte) validator.Validator {
	t.Helper()
	document, err := libopenapi.NewDocument(content)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := document.BuildV3Model(); err != nil { // every reference leads somewhere
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(document)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return v
}

func tell(t *testing.T, what string, faults []*errors.ValidationError) {
	t.Helper()
	for _, fault := range faults {
		t.Errorf("%s: %s: %s", what, fault.Message, fault.Reason)
		for _, detail := range fault.SchemaValidationErrors {
			t.Errorf("  %s at %s", detail.Reason, detail.FieldPath)
		}
	}
}

func TestTheDocumentIsOpenAPI31(t *testing.T) {
	_, faults := load(t, admin.OpenAPI()).ValidateDocument()
	tell(t, "openapi.json", faults)
}

type leg struct {
	Car string `json:"car"`
}

var (
	begin = events.NewCommand[leg, leg]("test.trip.begin.v1")
	hold  = events.NewCommand[leg, leg]("test.car.hold.v1")
	free  = events.NewCommand[leg, events.None]("test.car.free.v1")
	paid  = events.NewFact[leg]("test.trip.paid.v1")
)

// trip holds two cars at a time, awaits the payment and ends.
var trip = saga.Definition[leg]{
	Name: "trip", Version: 1, Start: saga.On(begin, func(_ string, l leg) leg { return l }, func(l leg) leg { return l }),
	Attributes: func(l leg) map[string]string { return map[string]string{"car": l.Car} },
	Flow: saga.Sequence[leg]{
		saga.Parallel[leg]{Branches: []saga.Node[leg]{holds("first"), holds("second")}},
		saga.ForEach[leg, int]{
			Name: "wheels", Items: func(leg) []int { return []int{1, 2} },
			Body: saga.Sleep[saga.Each[leg, int]]{Name: "check-wheel", For: time.Hour},
		},
		saga.Await[leg]{Name: "payment", Timeout: time.Hour, For: saga.Signal(paid, func(*leg, leg) {})},
	},
}

func holds(name string) saga.Step[leg] {
	return saga.Step[leg]{
		Name: name, Do: saga.Call(hold, func(l leg) leg { return l }, nil),
		Undo: saga.Undo(hold, free, func(l leg, _ saga.Sent[leg, leg]) leg { return l }),
	}
}

// verbs are the colons of paths that the validator is given as slashes.
var verbs = regexp.MustCompile("(s/[^/:]+):")

// bury makes dead letters, one of an event and one of what is none, and a dead row
// of an outbox with one that is parked behind it.
func bury(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	event, err := hold.New("e1", "/test", leg{"a"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	event.PartitionKey = "k"
	var batch pgx.Batch
	consumer.QueueDeadLetter(&batch, "shop", &broker.Delivery{Topic: hold.Topic(), Offset: 1, StoredAt: time.Now(), Event: event}, 3, io.EOF)
	consumer.QueueDeadLetter(&batch, "shop", &broker.Delivery{Topic: hold.Topic(), Offset: 2, Event: events.Event{Data: []byte{0}}, Malformed: io.EOF}, 1, io.EOF)
	batch.Queue(`insert into outbox_dead (id, lane, key, state, parks, publish_id, topic, attributes, data, created_at, error)
		values (1, 0, 'k', 'dead', true, 'p', $1, $2, $3, now(), 'too large'), (2, 0, 'k', 'parked', false, 'q', $1, $2, $3, now(), '')`,
		string(hold.Topic()), events.AppendAttributes(nil, &event), event.Data)
	if err := pool.SendBatch(t.Context(), &batch).Close(); err != nil {
		t.Fatal(err)
	}
}

// send publishes an event that the consumer shop could be given once more.
func send(t *testing.T, pool *pgxpool.Pool, b broker.Broker) {
	t.Helper()
	event, err := hold.New("e2", "/test", leg{"b"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Ensure(t.Context(), hold.Topic()); err != nil {
		t.Fatal(err)
	}
	if receipt := b.PublishBatch(t.Context(), []broker.Message{{Topic: hold.Topic(), Event: event}})[0]; receipt.Err != nil {
		t.Fatal(receipt.Err)
	}
	if _, err := pool.Exec(t.Context(), "insert into consumer_topic (consumer, topic, memory) values ('shop', $1, 'inbox')", string(hold.Topic())); err != nil {
		t.Fatal(err)
	}
}

// Whatever the API is asked, its answer is as the document says.
func TestAnswersAreAsTheDocumentSays(t *testing.T) {
	// The validator takes {id}:pause for an {id}, so it is given both the document and
	// what is asked with a slash there.
	v := load(t, bytes.ReplaceAll(admin.OpenAPI(), []byte("{id}:"), []byte("{id}/")))
	pool := postgrestest.Open(t, postgres.Config{Params: saga.SessionParams(), MaxConns: 4},
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()},
		postgres.MigrationSet{Owner: "consumer", FS: consumer.Migrations()},
		postgres.MigrationSet{Owner: "saga", FS: saga.Migrations()})
	engine, err := saga.NewEngine(pool, saga.EngineConfig{Logger: slog.New(slog.DiscardHandler)}, trip)
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	var id string
	err = postgres.InTx(t.Context(), pool, func(tx pgx.Tx) (err error) {
		id, err = saga.Begin(t.Context(), engine, tx, begin, "a", leg{"a"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	admin.Register(mux, admin.Config{Reader: saga.NewReader(pool), Operator: engine, Logger: slog.New(slog.DiscardHandler)})

	messaging := new(admin.Messaging)
	conn, err := embeddedtest.NATS(t).Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	topics, err := natsbroker.New(conn, natsbroker.Config{Partitions: 2})
	if err != nil {
		t.Fatal(err)
	}
	messaging.AddDeadLetters(deadletter.NewStore("shop", pool), topics)
	admin.RegisterMessaging(mux, messaging, slog.New(slog.DiscardHandler))
	messaging.AddOutbox(operate.New("shop", pool, nil))
	bury(t, pool)
	send(t, pool, topics)

	const signed = `"by":"ada","reason":"a test"`
	for _, ask := range []struct {
		method, path, body string
		status             int
	}{
		{http.MethodGet, "/admin/v1/sagas?limit=5&status=running", "", 200},
		{http.MethodGet, "/admin/v1/sagas?status=sleepy", "", 400},
		{http.MethodGet, "/admin/v1/sagas:counts", "", 200},
		{http.MethodGet, "/admin/v1/sagas:waiting", "", 200},
		{http.MethodGet, "/admin/v1/sagas/" + id, "", 200},
		{http.MethodGet, "/admin/v1/sagas/x", "", 404},
		{http.MethodGet, "/admin/v1/sagas/" + id + "/preview", "", 200},
		{http.MethodPost, "/admin/v1/sagas/" + id + ":pause", `{` + signed + `}`, 200},
		{http.MethodPost, "/admin/v1/sagas/" + id + ":pause", `{` + signed + `}`, 409},
		{http.MethodPost, "/admin/v1/sagas/" + id + ":resume", `{` + signed + `}`, 200},
		{http.MethodPost, "/admin/v1/sagas/" + id + ":retry?dry_run=true", `{` + signed + `}`, 200},
		{http.MethodPost, "/admin/v1/sagas/" + id + ":complete", `{` + signed + `,"step":"first","data":{"car":"b"}}`, 200},
		{http.MethodPost, "/admin/v1/sagas/" + id + ":skip", `{` + signed + `,"step":"second"}`, 200},
		{http.MethodPost, "/admin/v1/sagas/" + id + ":signal", `{` + signed + `,"step":"payment","data":{"car":"b"}}`, 200},
		{http.MethodPost, "/admin/v1/sagas/" + id + ":edit", `{` + signed + `,"data":{"car":"c"}}`, 200},
		{http.MethodPost, "/admin/v1/sagas/" + id + ":edit", `{` + signed + `,"data":{"car":7}}`, 422},
		{http.MethodGet, "/admin/v1/sagas/" + id, "", 200},
		{http.MethodPost, "/admin/v1/sagas/" + id + ":compensate", `{` + signed + `}`, 200},
		{http.MethodPost, "/admin/v1/sagas/" + id + ":cancel", `{` + signed + `}`, 409},
		{http.MethodPost, "/admin/v1/sagas/" + id + ":abandon", `{` + signed + `}`, 200},
		{http.MethodGet, "/admin/v1/sagas/" + id + "/preview", "", 409},
		{http.MethodGet, "/admin/v1/sagas/" + id + "/history", "", 200},
		{http.MethodGet, "/admin/v1/sagas/" + id + "/export", "", 200},
		{http.MethodPost, "/admin/v1/sagas:bulk", `{` + signed + `,"verb":"pause","filter":{},"expected_count":7}`, 409},
		{http.MethodGet, "/admin/v1/definitions", "", 200},
		{http.MethodGet, "/admin/v1/definitions/trip", "", 200},
		{http.MethodGet, "/admin/v1/definitions/none", "", 404},
		{http.MethodGet, "/admin/v1/definitions/trip/graph", "", 200},
		{http.MethodGet, "/admin/v1/dead-letters?service=shop&state=dead&limit=1", "", 200},
		{http.MethodGet, "/admin/v1/dead-letters?state=sleepy", "", 400},
		{http.MethodGet, "/admin/v1/dead-letters?service=none", "", 404},
		{http.MethodGet, "/admin/v1/dead-letters:groups", "", 200},
		{http.MethodGet, "/admin/v1/dead-letters/shop.1", "", 200},
		{http.MethodGet, "/admin/v1/dead-letters/shop.2", "", 200},
		{http.MethodGet, "/admin/v1/dead-letters/shop.77", "", 404},
		{http.MethodGet, "/admin/v1/dead-letters/none.1", "", 404},
		{http.MethodPost, "/admin/v1/dead-letters/shop.1:edit", `{` + signed + `,"data":{"car":"z"}}`, 428},
		{http.MethodPost, "/admin/v1/dead-letters/shop.1:redrive?dry_run=true", `{` + signed + `}`, 200},
		{http.MethodPost, "/admin/v1/dead-letters/shop.1:redrive", `{` + signed + `}`, 200},
		{http.MethodPost, "/admin/v1/dead-letters/shop.1:redrive", `{` + signed + `}`, 409},
		{http.MethodPost, "/admin/v1/dead-letters:bulk", `{` + signed + `,"verb":"redrive","filter":{},"expected_count":7}`, 409},
		{http.MethodPost, "/admin/v1/dead-letters:bulk", `{` + signed + `,"verb":"discard","filter":{},"dry_run":true}`, 200},
		{http.MethodPost, "/admin/v1/dead-letters/shop.2:discard", `{` + signed + `}`, 200},
		{http.MethodGet, "/admin/v1/dead-letters/shop.2", "", 404},
		{http.MethodGet, "/admin/v1/consumers?service=shop", "", 200},
		{http.MethodGet, "/admin/v1/consumers?service=none", "", 404},
		{http.MethodPost, "/admin/v1/consumers:replay", `{` + signed + `,"consumer":"shop","topic":"` + string(hold.Topic()) + `","since":"2026-01-01T00:00:00Z","dry_run":true}`, 200},
		{http.MethodPost, "/admin/v1/consumers:replay", `{` + signed + `,"consumer":"shop","topic":"` + string(hold.Topic()) + `","since":"2026-01-01T00:00:00Z","ids":["e2"],"expected_count":1}`, 200},
		{http.MethodPost, "/admin/v1/consumers:replay", `{` + signed + `,"consumer":"shop","topic":"` + string(hold.Topic()) + `","positions":{"partition":0,"from":1,"through":9},"expected_count":7}`, 409},
		{http.MethodPost, "/admin/v1/consumers:replay", `{` + signed + `,"consumer":"shop","topic":"` + string(hold.Topic()) + `"}`, 422},
		{http.MethodPost, "/admin/v1/consumers:replay", `{` + signed + `,"consumer":"none","topic":"` + string(hold.Topic()) + `","since":"2026-01-01T00:00:00Z"}`, 404},
		{http.MethodGet, "/admin/v1/dead-letters?state=redriving", "", 200},
		{http.MethodGet, "/admin/v1/outboxes?service=shop", "", 200},
		{http.MethodGet, "/admin/v1/outboxes?service=none", "", 404},
		{http.MethodGet, "/admin/v1/outboxes:stuck?older=0&limit=5", "", 200},
		{http.MethodGet, "/admin/v1/outboxes:stuck?older=x", "", 400},
		{http.MethodPost, "/admin/v1/outboxes:flush?wait=0", "", 200},
		{http.MethodGet, "/admin/v1/outbox-rows/shop.1", "", 200},
		{http.MethodGet, "/admin/v1/outbox-rows/shop.7", "", 404},
		{http.MethodPost, "/admin/v1/outbox-rows/shop.2:requeue", `{` + signed + `}`, 409},
		{http.MethodPost, "/admin/v1/outbox-rows/shop.1:requeue?dry_run=true", `{` + signed + `}`, 200},
		{http.MethodPost, "/admin/v1/outbox-rows/shop.1:discard", `{` + signed + `}`, 200},
		{http.MethodPost, "/admin/v1/outbox-rows/shop.1:discard", `{` + signed + `}`, 404},
	} {
		request := httptest.NewRequest(ask.method, ask.path, strings.NewReader(ask.body))
		if ask.body != "" {
			request.Header.Set("Content-Type", "application/json")
		}
		recorder := httptest.NewRecorder()
		mux.ServeHTTP(recorder, request)
		what := ask.method + " " + ask.path
		if recorder.Code != ask.status {
			t.Errorf("%s is answered %d %s, want %d", what, recorder.Code, recorder.Body, ask.status)
			continue
		}
		request.URL.Path = verbs.ReplaceAllString(request.URL.Path, "$1/")
		documents := [][]byte{recorder.Body.Bytes()}
		if recorder.Header().Get("Content-Type") == "application/jsonl" { // each line is of the schema
			documents = bytes.SplitAfter(bytes.TrimSuffix(documents[0], []byte("\n")), []byte("\n"))
		}
		for _, document := range documents {
			response := recorder.Result()
			response.Body = io.NopCloser(bytes.NewReader(document))
			_, faults := v.ValidateHttpResponse(request, response)
			tell(t, what, faults)
		}
		if ask.status < 300 { // what is refused need not be as the document says
			request.Body = io.NopCloser(strings.NewReader(ask.body))
			_, faults := v.ValidateHttpRequest(request)
			tell(t, what, faults)
		}
	}
}

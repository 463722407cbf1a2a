package schedule_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/embedded"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/schedule"
)

type Day struct {
	Day time.Time `json:"day"`
}

var closeBooks = events.NewCommand[Day, events.None]("example.books.close.v1")

// Half past two does not exist on the day when clocks are put forward in Berlin:
// it fires when the gap ends.
func ExampleSpec_Next() {
	spec := schedule.Spec{Cron: "30 2 * * *", Zone: "Europe/Berlin"}
	times, err := spec.Next(time.Date(2026, 3, 28, 0, 0, 0, 0, time.UTC), 3)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, at := range times {
		fmt.Println(at.Format(time.RFC3339))
	}
	// Output:
	// 2026-03-28T02:30:00+01:00
	// 2026-03-29T03:00:00+02:00
	// 2026-03-30T02:30:00+02:00
}

// Everything that is wrong is told at once.
func ExampleSchedule_Validate() {
	err := schedule.Schedule{
		ID:      "close-books",
		When:    schedule.Spec{Cron: "0 25 * * *", Zone: "Europe/Bonn"},
		Do:      schedule.Action{Command: closeBooks.Type()},
		Overlap: "cancel",
	}.Validate()
	for line := range strings.Lines(err.Error()) {
		fmt.Println(strings.SplitAfter(strings.TrimSpace(line), ":")[0])
	}
	// Output:
	// invalid schedule:
	// when.zone "Europe/Bonn" is unknown; want an IANA name such as Europe/Berlin
	// overlap "cancel":
}

// A schedule is stated once; any number of schedulers on its database fire it.
func ExampleScheduler() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	pool, stop := exampleDatabase(ctx)
	defer stop()

	scheduler, err := schedule.New(pool, schedule.Config{
		Commands: []schedule.Command{schedule.Sends(closeBooks)},
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() { _ = scheduler.Run(ctx) }()

	record, err := scheduler.Create(ctx, schedule.Schedule{
		ID:      "close-books",
		When:    schedule.Spec{Cron: "0 6 1 * *", Zone: "Europe/Berlin", Jitter: schedule.Duration(5 * time.Minute)},
		Do:      schedule.Action{Command: closeBooks.Type(), TimeField: "day"},
		Overlap: schedule.AllowAll, // a command that starts no saga
		CatchUp: schedule.CatchUp{Policy: schedule.All, Window: schedule.Duration(72 * time.Hour)},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(record.ID, "revision", record.Revision)

	// Operators can have it at once, pause it with a note, and make up for the past.
	firing, err := scheduler.Trigger(ctx, "close-books", false)
	fmt.Println(firing.Kind, firing.Outcome, err)
	record, err = scheduler.Pause(ctx, "close-books", "audit until Friday", record.Revision)
	fmt.Println(record.State.Paused, record.State.Note, err)
	record, err = scheduler.Backfill(ctx, "close-books", schedule.Backfill{
		From: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC),
	}, record.Revision)
	fmt.Println(record.Revision, err)
	for record.State.Started < 4 {
		time.Sleep(10 * time.Millisecond)
		if record, err = scheduler.Get(ctx, "close-books"); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println("started", record.State.Started)
	// Output:
	// close-books revision 1
	// triggered started <nil>
	// true audit until Friday <nil>
	// 3 <nil>
	// started 4
}

// Operators reach the scheduler over HTTP, on the admin listener.
func ExampleRegister() {
	ctx := context.Background()
	pool, stop := exampleDatabase(ctx)
	defer stop()
	scheduler, err := schedule.New(pool, schedule.Config{Commands: []schedule.Command{schedule.Sends(closeBooks)}})
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux()
	schedule.Register(mux, scheduler, nil, slog.New(slog.DiscardHandler))

	request := httptest.NewRequest(http.MethodPut, "/admin/v1/schedules/close-books", strings.NewReader(
		`{"when": {"every": "24h"}, "do": {"command": "example.books.close.v1"}, "overlap": "allow_all"}`))
	request.Header.Set("If-None-Match", "*")
	answer := httptest.NewRecorder()
	mux.ServeHTTP(answer, request)
	var record schedule.Record
	err = json.Unmarshal(answer.Body.Bytes(), &record)
	fmt.Println(answer.Code, answer.Header().Get("ETag"), record.When.Every, err)
	// Output: 201 "1" 24h0m0s <nil>
}

// exampleDatabase is a database with the tables that schedules need.
func exampleDatabase(ctx context.Context) (pool *pgxpool.Pool, stop func()) {
	dir, err := os.MkdirTemp("", "countermand-example-")
	if err != nil {
		panic(err)
	}
	server, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{DataDir: filepath.Join(dir, "postgres"), NoSync: true})
	if err != nil {
		panic(err)
	}
	pool, err = postgres.Open(ctx, postgres.Config{URL: server.AdminURL()})
	if err != nil {
		panic(err)
	}
	err = postgres.Migrate(ctx, pool,
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()},
		postgres.MigrationSet{Owner: "schedule", FS: schedule.Migrations()})
	if err != nil {
		panic(err)
	}
	return pool, func() {
		pool.Close()
		_ = server.Stop(context.WithoutCancel(ctx))
		_ = os.RemoveAll(dir)
	}
}

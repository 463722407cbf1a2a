package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/saga"
)

func TestExitCodes(t *testing.T) {
	quiet(t)
	notFound := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"code":"saga_not_found","detail":"there is no saga of this id"}`))
	}))
	t.Cleanup(notFound.Close)
	t.Setenv("DATABASE_URL", "")
	routes := filepath.Join(t.TempDir(), "routes.yaml")
	if err := os.WriteFile(routes, []byte("version: 1\nroutes:\n  - {id: x, kind: comand}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want int
	}{
		"no command shows help":             {nil, wire.ExitOK},
		"version":                           {[]string{"version"}, wire.ExitOK},
		"an unknown command":                {[]string{"nonsense"}, wire.ExitUsage},
		"an unknown command of a group":     {[]string{"saga", "lits"}, wire.ExitUsage},
		"an unknown command deeper":         {[]string{"ai", "budget", "lits", "--admin", notFound.URL}, wire.ExitUsage},
		"a group shows help":                {[]string{"saga"}, wire.ExitOK},
		"an unknown flag":                   {[]string{"dev", "--nonsense"}, wire.ExitUsage},
		"a route table with a fault":        {[]string{"dev", "--routes", routes, "--data-dir", "/dev/null/none"}, wire.ExitUsage},
		"a route table that is not there":   {[]string{"dev", "--routes", routes + "2", "--data-dir", "/dev/null/none"}, wire.ExitUsage},
		"a missing argument":                {[]string{"saga", "get"}, wire.ExitUsage},
		"an unknown role":                   {[]string{"serve", "nobody"}, wire.ExitUsage},
		"migrate without a database":        {[]string{"migrate", "engine"}, wire.ExitUsage},
		"a bad output format":               {[]string{"saga", "list", "-o", "xml"}, wire.ExitUsage},
		"no admin API there":                {[]string{"saga", "list", "--admin", "http://127.0.0.1:1"}, wire.ExitUnreachable},
		"a saga that does not exist":        {[]string{"saga", "get", "x", "--admin", notFound.URL}, exitNotFound},
		"a demo of no orders":               {[]string{"demo", "--orders", "0"}, wire.ExitUsage},
		"an admin URL that cannot be a URL": {[]string{"saga", "list", "--admin", "http://%zz"}, wire.ExitUsage},
		"an order without a reason":         {[]string{"saga", "pause", "x", "--admin", notFound.URL}, wire.ExitUsage},
		"an order to nobody":                {[]string{"saga", "pause", "x", "--reason", "r", "--admin", notFound.URL}, exitNotFound},
		"a skip without a step":             {[]string{"saga", "skip", "x", "--reason", "r", "--admin", notFound.URL}, wire.ExitUsage},
		"data that is not JSON":             {[]string{"saga", "complete", "x", "--step", "s", "--data", "{", "--reason", "r"}, wire.ExitUsage},
		"an unknown verb in bulk":           {[]string{"saga", "bulk", "dance", "--reason", "r"}, wire.ExitUsage},
		"a time that is none":               {[]string{"saga", "list", "--created-after", "today"}, wire.ExitUsage},
		"a bulk order that nobody confirms": {[]string{"saga", "bulk", "pause", "--admin", notFound.URL}, wire.ExitUsage},
		"the definitions of this binary":    {[]string{"def", "list"}, wire.ExitOK},
		"a check of them":                   {[]string{"def", "lint"}, wire.ExitOK},
		"a drawing":                         {[]string{"def", "graph", "checkout", "-o", "svg"}, wire.ExitOK},
		"a drawing of nothing":              {[]string{"def", "graph", "nothing"}, exitNotFound},
		"compat without a database":         {[]string{"def", "compat"}, wire.ExitUsage},
		"a backfill without a range":        {[]string{"schedule", "backfill", "x"}, wire.ExitUsage},
		"a schedule without a time":         {[]string{"schedule", "create", "x", "--command", "a.b.v1"}, wire.ExitUsage},
		"a schedule with a bad start":       {[]string{"schedule", "create", "x", "--every", "1h", "--start", "soon"}, wire.ExitUsage},
		"data that is not there":            {[]string{"schedule", "create", "x", "--every", "1h", "--data", "@/nowhere"}, wire.ExitUsage},
		"a dry run needs no admin API": {
			[]string{"schedule", "create", "x", "--every", "1h", "--command", "a.b.v1", "--dry-run", "--admin", "http://127.0.0.1:1"}, wire.ExitOK,
		},
		"a schedule that does not exist":      {[]string{"schedule", "show", "x", "--admin", notFound.URL}, exitNotFound},
		"pausing what does not exist":         {[]string{"schedule", "pause", "x", "--admin", notFound.URL}, exitNotFound},
		"no admin API to create it at":        {[]string{"schedule", "create", "x", "--every", "1h", "--command", "a.b.v1", "--admin", "http://127.0.0.1:1"}, wire.ExitUnreachable},
		"watching a saga that does not exist": {[]string{"saga", "watch", "x", "--admin", notFound.URL}, exitNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			if got := run(t.Context(), c.args); got != c.want {
				t.Errorf("exit code %d, want %d", got, c.want)
			}
		})
	}
}

func instance(status saga.Status) admin.Saga {
	return admin.Saga{Revision: 3, Instance: saga.Instance{
		ID: "01a206ab-7fca-8c73-8490-b6e87ad06d6f", Name: "checkout", Version: 1, Status: status,
		Steps: []saga.StepRecord{
			{Name: "create-order", Status: saga.StepCompensated, Undo: saga.CallRecord{Attempts: 2}},
			{Name: "reserve-stock", Status: saga.StepRejected, Do: saga.CallRecord{Attempts: 1}},
			{Name: "authorize-payment", Status: saga.StepPending},
		},
		Failure:   &saga.Failure{Step: "reserve-stock", Code: "out_of_stock", Message: "fewer than 6 of RARE-001 are left"},
		CreatedAt: time.Now(),
	}}
}

func TestTreeShowsStepsWithWhatBecameOfThem(t *testing.T) {
	want := `01a206ab-7fca-8c73-8490-b6e87ad06d6f  checkout@1  compensated  reserve-stock: out_of_stock, fewer than 6 of RARE-001 are left
├─ ↩ create-order  compensated  2 undo attempts
├─ ✗ reserve-stock  rejected
└─ · authorize-payment  pending
`
	if got := tree(instance(saga.Compensated), nil); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestListOutputs(t *testing.T) {
	sagas := []saga.Summary{{ID: "a", Name: "checkout", Version: 1}, {ID: "b", Name: "checkout", Version: 1}}
	for output, check := range map[string]func(text string) bool{
		"table": func(text string) bool {
			return strings.HasPrefix(text, "ID ") && strings.Contains(text, "checkout@1") && strings.Count(text, "\n") == 3
		},
		"json": func(text string) bool {
			var all []saga.Summary
			return json.Unmarshal([]byte(text), &all) == nil && len(all) == 2
		},
		"jsonl": func(text string) bool { return strings.Count(text, "\n") == 2 },
	} {
		var out bytes.Buffer
		if err := printList(&out, sagas, output); err != nil || !check(out.String()) {
			t.Errorf("%s: %v\n%s", output, err, &out)
		}
	}
}

func TestWatchEndsWithTheSaga(t *testing.T) {
	quiet(t)
	statuses := []saga.Status{saga.Running, saga.Compensating, saga.Compensated}
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/definitions/") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		in := instance(statuses[min(asked, len(statuses)-1)])
		in.Revision = int64(asked)
		asked++
		_ = json.NewEncoder(w).Encode(in)
	}))
	t.Cleanup(server.Close)
	if got := run(t.Context(), []string{"saga", "watch", "x", "-o", "jsonl", "--admin", server.URL}); got != wire.ExitFailed {
		t.Errorf("exit code %d for a compensated saga, want %d", got, wire.ExitFailed)
	}
	if asked < len(statuses) {
		t.Errorf("asked %d times, want at least %d", asked, len(statuses))
	}
}

// A list that is followed prints a saga when it comes and when it has changed,
// and not otherwise.
func TestWatchListPrintsWhatChanges(t *testing.T) {
	t.Parallel()
	a, b := saga.Summary{ID: "a", Revision: 1}, saga.Summary{ID: "b", Revision: 1}
	later := a
	later.Revision = 2
	rounds := [][]saga.Summary{{a}, {a}, {b, a}, {b, later}, {b}}
	for output, want := range map[string]string{"jsonl": "a b a", "table": "a ba ba b"} {
		t.Run(output, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				end := errors.New("the end")
				asked := 0
				err := watchList(t.Context(), &out, func() ([]saga.Summary, error) {
					if asked++; asked > len(rounds) {
						return nil, end
					}
					return rounds[asked-1], nil
				}, output)
				if !errors.Is(err, end) {
					t.Error(err)
				}
				var got []string
				for line := range strings.Lines(out.String()) {
					switch {
					case strings.HasPrefix(line, "ID"):
						got = append(got, "")
					case output == "table":
						got[len(got)-1] += line[:1]
					default:
						got = append(got, line[len(`{"id":"`):][:1])
					}
				}
				if strings.Join(got, " ") != want {
					t.Errorf("printed %q, want %q:\n%s", got, want, &out)
				}
			})
		})
	}
}

// quiet keeps what commands print out of the test's own output.
func quiet(t *testing.T) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = null
	t.Cleanup(func() {
		os.Stdout = stdout
		_ = null.Close()
	})
}

func TestMain(m *testing.M) { embeddedtest.Main(m) }

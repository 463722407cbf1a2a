package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/platform/postgres"
	"github.com/countermand/countermand/platform/saga"
)

func TestTreeShowsWhatIsInsideOfWhat(t *testing.T) {
	step := func(name string) saga.GraphNode { return saga.GraphNode{Kind: "step", Name: name} }
	graph := &saga.Graph{Flow: saga.GraphNode{Kind: "sequence", Nodes: []saga.GraphNode{
		{Kind: "parallel", Nodes: []saga.GraphNode{
			{Kind: "sequence", Nodes: []saga.GraphNode{step("stock"), step("label")}}, step("money"),
		}},
		{Kind: "for-each", Name: "parcels", Nodes: []saga.GraphNode{step("send")}},
		{Kind: "choice", Name: "gift", Labels: []string{"case 1", "else"}, Nodes: []saga.GraphNode{step("wrap"), step("fold")}},
		{Kind: "step", Name: "fetch", Labels: []string{"closed, then again"}, Nodes: []saga.GraphNode{{Kind: "sleep", Name: "wait"}}},
		{Kind: "decide", Name: "plan", Labels: []string{"ask", "look"}, Nodes: []saga.GraphNode{step("ask-them"), step("look-up")}},
		step("close"),
	}}}
	in := admin.Saga{Instance: saga.Instance{ID: "x", Name: "ship", Version: 2, Status: saga.Running, Paused: true, Steps: []saga.StepRecord{
		{Name: "stock", Status: saga.StepDone},
		{Name: "money", Status: saga.StepRunning, Do: saga.CallRecord{Attempts: 3}},
		{Name: "parcels", Kind: "for-each", Status: saga.StepRunning, Items: []json.RawMessage{{}, {}, {}}},
		{Name: "send[0]", Status: saga.StepDone},
		{Name: "send[1]", Status: saga.StepRunning},
		{Name: "gift", Kind: "choice", Status: saga.StepDone, Choice: 1},
		{Name: "fold", Status: saga.StepDone},
		{Name: "fetch", Status: saga.StepRunning, Round: 1, Code: "closed"},
		{Name: "wait[0]", Kind: "sleep", Status: saga.StepDone},
		{Name: "plan", Kind: "decide", Status: saga.StepRunning, Turns: []string{"look"}},
		{Name: "look-up[0]", Status: saga.StepRunning},
		{Name: "of-another-version", Status: saga.StepDone},
	}}}
	want := `x  ship@2  running, paused  
├─ at the same time
│  ├─ branch 1
│  │  ├─ ✓ stock  done
│  │  └─ · label  pending
│  └─ ▶ money  running  3 attempts
├─ ▶ parcels  running  1 of 3 items
│  ├─ ✓ send[0]  done
│  ├─ ▶ send[1]  running
│  └─ · send[2]  pending
├─ ✓ gift  done: else
│  └─ ✓ fold  done
├─ ▶ fetch  running  after closed
│  └─ after closed, then again
│     └─ ✓ wait[0]  done
├─ ▶ plan  running
│  └─ turn 1: look
│     └─ ▶ look-up[0]  running
├─ · close  pending
└─ ✓ of-another-version  done
`
	if got := tree(in, graph); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	each := &in.Steps[2]
	for len(each.Items) < 20 {
		each.Items = append(each.Items, json.RawMessage("{}"))
	}
	if got := tree(in, graph); !strings.Contains(got, "1 of 20 items\n│  ├─ ▶ send[1]  running\n│  └─ … 1 over, 18 to come\n") {
		t.Errorf("of many items those are shown that are under way:\n%s", got)
	}
}

// desk is an admin API that answers as it is told and keeps what it was asked.
type desk struct {
	*httptest.Server
	asked []string
}

func newDesk(t *testing.T, answers map[string]string) *desk {
	t.Helper()
	d := &desk{}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		ask := r.Method + " " + r.URL.RequestURI()
		d.asked = append(d.asked, strings.TrimSpace(ask+" "+r.Header.Get("If-Match")+" "+string(body)))
		answer, ok := answers[ask]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(d.Close)
	return d
}

// do runs a command line and returns what it prints.
func (d *desk) do(t *testing.T, stdin string, args ...string) (stdout string, err error) {
	t.Helper()
	cmd := sagaCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetArgs(append(args, "--admin", d.URL))
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func code(err error) int {
	if f, ok := errors.AsType[failure](err); ok {
		return f.code
	}
	return -1
}

const result = `{"dry_run":false,"saga":{"id":"x","name":"ship","version":1,"status":"running","revision":8,"state":{},"steps":[]},"sends":[{"step":"a","type":"a.b.v1","request":{"n":1}}]}`

func TestVerbsAskTheAdminAPI(t *testing.T) {
	file := filepath.Join(t.TempDir(), "reply.json")
	if err := os.WriteFile(file, []byte(`{"file":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args  []string
		stdin string
		want  string
	}{
		"a plain one":       {[]string{"pause", "x"}, "", `POST /admin/v1/sagas/x:pause  {"by":"eve","reason":"r"}`},
		"at a revision":     {[]string{"abandon", "x", "--revision", "7"}, "", `POST /admin/v1/sagas/x:abandon "7" {"by":"eve","reason":"r"}`},
		"data":              {[]string{"complete", "x", "--step", "a", "--data", `{"n":1}`}, "", `POST /admin/v1/sagas/x:complete  {"by":"eve","reason":"r","step":"a","data":{"n":1}}`},
		"data of a file":    {[]string{"complete", "x", "--step", "a", "--data", "@" + file}, "", `POST /admin/v1/sagas/x:complete  {"by":"eve","reason":"r","step":"a","data":{"file":true}}`},
		"data of stdin":     {[]string{"edit", "x", "--data", "-"}, `{"n":2}`, `POST /admin/v1/sagas/x:edit  {"by":"eve","reason":"r","data":{"n":2}}`},
		"a signal":          {[]string{"signal", "x", "--step", "s", "--id", "i"}, "", `POST /admin/v1/sagas/x:signal  {"by":"eve","reason":"r","step":"s","id":"i"}`},
		"an id with a path": {[]string{"pause", "../x"}, "", `POST /admin/v1/sagas/..%2Fx:pause  {"by":"eve","reason":"r"}`},
	} {
		t.Run(name, func(t *testing.T) {
			path, _, _ := strings.Cut(strings.TrimPrefix(c.want, "POST "), " ")
			d := newDesk(t, map[string]string{"POST " + path: result})
			out, err := d.do(t, c.stdin, append(c.args, "--by", "eve", "--reason", "r")...)
			if err != nil || len(d.asked) != 1 || d.asked[0] != c.want {
				t.Errorf("asked %q, %v; want %q", d.asked, err, c.want)
			}
			if !strings.Contains(out, "revision 8") || !strings.Contains(out, "a.b.v1") {
				t.Errorf("it prints %s", out)
			}
		})
	}
}

func TestEditOpensAnEditorOnTheState(t *testing.T) {
	d := newDesk(t, map[string]string{
		"GET /admin/v1/sagas/x": `{"id":"x","revision":7,"state":{"name":"ada"}}`, "POST /admin/v1/sagas/x:edit": result,
	})
	t.Setenv("VISUAL", "")
	t.Setenv("EDITOR", "sed -i s/ada/grace/")
	if _, err := d.do(t, "", "edit", "x", "--by", "eve", "--reason", "r"); err != nil {
		t.Fatal(err)
	}
	if want := `POST /admin/v1/sagas/x:edit "7" {"by":"eve","reason":"r","data":{"name":"grace"}}`; d.asked[1] != want {
		t.Errorf("asked %q, want %q", d.asked[1], want)
	}
	for editor, want := range map[string]int{"true": wire.ExitFailed, "false": wire.ExitFailed, "sed -i d": wire.ExitFailed, "": wire.ExitUsage} {
		t.Setenv("EDITOR", editor)
		d.asked = nil
		if _, err := d.do(t, "", "edit", "x", "--by", "eve", "--reason", "r"); code(err) != want || len(d.asked) > 1 {
			t.Errorf("editor %q: %v, asked %q", editor, err, d.asked)
		}
	}
}

func TestBulkWantsTheNumberTyped(t *testing.T) {
	list := `{"sagas":[{"id":"a"},{"id":"b"}]}`
	lines := `{"event":"selected","count":{"selected":2}}
{"event":"saga","saga":{"id":"a","outcome":"done","status":"running"}}
{"event":"saga","saga":{"id":"b","outcome":"refused","code":"past_pivot","message":"no"}}
{"event":"finished","count":{"selected":2,"done":1,"refused":1,"not_found":0}}
`
	answers := map[string]string{"GET /admin/v1/sagas?limit=500&status=stuck": list, "POST /admin/v1/sagas:bulk": lines}
	order := []string{"bulk", "retry", "--status", "stuck", "--by", "eve", "--reason", "r"}

	d := newDesk(t, answers)
	out, err := d.do(t, "2\n", order...)
	if code(err) != exitConflict || !strings.Contains(out, "past_pivot") || strings.Count(out, "\n") != 2 {
		t.Errorf("it prints %s, %v", out, err)
	}
	if want := `POST /admin/v1/sagas:bulk  {"verb":"retry","by":"eve","reason":"r","filter":{"status":"stuck"},"expected_count":2,"rate":50}`; len(d.asked) != 2 || d.asked[1] != want {
		t.Errorf("asked %q, want %q", d.asked, want)
	}
	for _, typed := range []string{"3\n", "\n", "yes\n", ""} {
		d := newDesk(t, answers)
		if _, err := d.do(t, typed, order...); code(err) != wire.ExitFailed || len(d.asked) != 1 {
			t.Errorf("typed %q: %v, asked %q", typed, err, d.asked)
		}
	}
	answers["POST /admin/v1/sagas:bulk"] = strings.Replace(lines, `"finished"`, `"interrupted"`, 1)
	if _, err := newDesk(t, answers).do(t, "", append(order, "--expect", "2")...); code(err) != wire.ExitFailed {
		t.Errorf("interrupted: %v", err)
	}
	answers["POST /admin/v1/sagas:bulk"] = lines[:strings.Index(lines, `{"event":"finished"`)]
	if _, err := newDesk(t, answers).do(t, "", append(order, "--expect", "2")...); code(err) != wire.ExitFailed {
		t.Errorf("a connection that ended: %v", err)
	}
}

func TestAgesAndTimesSelectSagas(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	flags := filterFlags{createdAfter: "90m", createdBefore: "2026-11-22T12:30:00+01:00", attributes: map[string]string{"customer": "ada"}}
	filter, err := flags.filter(now)
	if err != nil {
		t.Fatal(err)
	}
	want := "attribute.customer=ada&created_after=2026-11-22T10%3A30%3A00Z&created_before=2026-11-22T11%3A30%3A00Z"
	if got := query(filter).Encode(); got != want {
		t.Errorf("query %s, want %s", got, want)
	}
}

var (
	begin = events.NewCommand[events.None, events.None]("test.ship.begin.v1")
	send  = events.NewCommand[events.None, events.None]("test.ship.send.v1")
)

func shipping(version int, steps ...string) saga.Definition[events.None] {
	flow := saga.Sequence[events.None]{}
	for _, name := range steps {
		flow = append(flow, saga.Step[events.None]{
			Name: name, Do: saga.Call(send, func(events.None) events.None { return events.None{} }, nil), NoUndo: "a test",
		})
	}
	return saga.Definition[events.None]{
		Name: "ship", Version: version, Flow: flow,
		Start: saga.On(begin, func(string, events.None) events.None { return events.None{} }, func(events.None) events.None { return events.None{} }),
	}
}

func TestLintTellsEveryViolation(t *testing.T) {
	bad := shipping(0, "a", "a", "B")
	var out, words bytes.Buffer
	if err := lint(&out, &words, "table", []saga.Compiler{bad, shipping(1, "a")}); code(err) != wire.ExitFailed {
		t.Errorf("it ended %v", err)
	}
	for _, want := range []string{"version 0", `two nodes have this name`, `name "B"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %s:\n%s", want, out.String())
		}
	}
	out.Reset()
	err := lint(&out, &words, "json", []saga.Compiler{bad})
	var all []violation
	if json.Unmarshal(out.Bytes(), &all) != nil || len(all) != 3 || code(err) != wire.ExitFailed {
		t.Errorf("as JSON: %s, %v", out.String(), err)
	}
	if err := lint(&out, &words, "table", []saga.Compiler{shipping(1, "a")}); err != nil || !strings.Contains(words.String(), "1 definitions are sound") {
		t.Errorf("sound ones: %v, %s", err, words.String())
	}
}

func TestCompatComparesWithLiveSagas(t *testing.T) {
	url := embeddedtest.Postgres(t)
	if err := wire.Migrate(t.Context(), wire.Engine, url); err != nil {
		t.Fatal(err)
	}
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: url, MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	engine, err := saga.NewEngine(pool, saga.EngineConfig{}, shipping(1, "a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := saga.Begin(t.Context(), engine, tx, begin, "k", events.None{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	check := func(output string, definitions ...saga.Compiler) (string, error) {
		t.Helper()
		var out bytes.Buffer
		err := compatible(t.Context(), &out, io.Discard, output, url, definitions)
		return out.String(), err
	}
	if out, err := check("table", shipping(1, "a", "b")); err != nil || out != "" {
		t.Errorf("the same: %s, %v", out, err)
	}
	if out, err := check("table", shipping(2, "a", "b")); code(err) != wire.ExitFailed || !strings.Contains(out, "ship@1") {
		t.Errorf("another version: %s, %v", out, err)
	}
	out, err := check("json", shipping(1, "z", "b"))
	var misfits []saga.Misfit
	if json.Unmarshal([]byte(out), &misfits) != nil || len(misfits) != 1 || misfits[0].Sagas != 1 || code(err) != wire.ExitFailed {
		t.Errorf("other steps: %s, %v", out, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // it waits longer for a server to come
	defer cancel()
	if err := compatible(ctx, io.Discard, io.Discard, "table", "postgres://127.0.0.1:1/x", []saga.Compiler{shipping(1, "a")}); code(err) != wire.ExitUnreachable {
		t.Errorf("no database: %v", err)
	}
}

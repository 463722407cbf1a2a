package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/countermand/countermand/cmd/internal/wire"
)

// replay runs a command line of replay and returns what it prints.
func (d *desk) replay(t *testing.T, stdin string, args ...string) (stdout string, err error) {
	t.Helper()
	cmd := replayCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetArgs(append(args, "--admin", d.URL, "--by", "eve", "--reason", "r"))
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

const replayed = `{"event":"selected","count":{"selected":2}}
{"event":"message","message":{"partition":3,"position":7,"event_id":"e1","event_type":"a.b.v1","outcome":"done","dead_letter":"shop.9"}}
{"event":"message","message":{"partition":3,"position":8,"event_id":"e2","event_type":"a.b.v1","outcome":"refused","code":"already_set_aside","message":"no"}}
{"event":"finished","count":{"selected":2,"done":1,"refused":1,"not_found":0}}
`

func TestReplayCountsAsksAndGivesTheOrder(t *testing.T) {
	answers := map[string]string{"POST /admin/v1/consumers:replay": replayed}
	order := []string{"--consumer", "shop", "--topic", "a.events", "--since", "2026-11-22T08:00:00Z", "--until", "2026-11-22T09:00:00Z", "--again", "--for", "1m", "--id", "e1,e2"}
	d := newDesk(t, answers)
	out, err := d.replay(t, "2\n", order...)
	if code(err) != exitConflict || !strings.Contains(out, "shop.9") || !strings.Contains(out, "already_set_aside, no") {
		t.Errorf("it prints %s, %v", out, err)
	}
	const common = `"service":"","consumer":"shop","topic":"a.events","since":"2026-11-22T08:00:00Z","until":"2026-11-22T09:00:00Z","ids":["e1","e2"],"again":true,`
	for i, want := range []string{
		`POST /admin/v1/consumers:replay  {"by":"eve","reason":"r",` + common + `"dry_run":true,"rate":50,"seconds_max":60}`,
		`POST /admin/v1/consumers:replay  {"by":"eve","reason":"r",` + common + `"expected_count":2,"rate":50,"seconds_max":60}`,
	} {
		want = strings.Replace(want, `"service":"",`, "", 1)
		if len(d.asked) != 2 || d.asked[i] != want {
			t.Errorf("asked %q, want %q", d.asked, want)
		}
	}
	d = newDesk(t, answers)
	if _, err := d.replay(t, "3\n", order...); code(err) != wire.ExitFailed || len(d.asked) != 1 {
		t.Errorf("%v, asked %q", err, d.asked)
	}
}

func TestReplayByPosition(t *testing.T) {
	d := newDesk(t, map[string]string{"POST /admin/v1/consumers:replay": replayed})
	if _, err := d.replay(t, "", "--consumer", "shop", "--topic", "a.events", "--partition", "3", "--from", "7", "--expect", "2", "-o", "jsonl"); code(err) != exitConflict {
		t.Error(err)
	}
	if want := `"positions":{"partition":3,"from":7,"through":7},"expected_count":2`; len(d.asked) != 1 || !strings.Contains(d.asked[0], want) {
		t.Errorf("asked %q, want %s", d.asked, want)
	}
}

func TestReplayWantsARange(t *testing.T) {
	for _, args := range [][]string{
		{}, {"--since", "x"}, {"--partition", "1"}, {"--from", "1"}, {"--partition", "1", "--from", "1", "--since", "1h"}, {"--since", "1h", "--until", "x"},
	} {
		d := newDesk(t, nil)
		if _, err := d.replay(t, "", append([]string{"--consumer", "shop", "--topic", "a.events"}, args...)...); code(err) != wire.ExitUsage || len(d.asked) > 0 {
			t.Errorf("%q: %v, asked %q", args, err, d.asked)
		}
	}
	if _, err := newDesk(t, nil).replay(t, "", "--consumer", "shop", "--since", "1h"); code(err) != wire.ExitUsage {
		t.Errorf("without a topic: %v", err)
	}
}

func TestReplayIsInterrupted(t *testing.T) {
	d := newDesk(t, map[string]string{"POST /admin/v1/consumers:replay": `{"event":"interrupted","count":{"selected":2,"done":1,"refused":0,"not_found":0},"detail":"the time of the order is up"}` + "\n"})
	_, err := d.replay(t, "", "--consumer", "shop", "--topic", "a.events", "--since", "1h", "--expect", "2")
	if code(err) != wire.ExitFailed || !strings.Contains(err.Error(), "the time of the order is up") {
		t.Error(err)
	}
}

func TestReplayListsConsumers(t *testing.T) {
	answers := map[string]string{"GET /admin/v1/consumers": `{"consumers":[{"service":"order","consumer":"order","topic":"a.commands","memory":"inbox","seen_at":"2026-11-22T09:00:00Z"}]}`}
	if out, err := newDesk(t, answers).replay(t, ""); err != nil || !strings.Contains(out, "by its inbox") {
		t.Errorf("it prints %s, %v", out, err)
	}
	if out, err := newDesk(t, answers).replay(t, "", "-o", "jsonl"); err != nil || !strings.Contains(out, `"memory":"inbox"`) {
		t.Errorf("it prints %s, %v", out, err)
	}
}

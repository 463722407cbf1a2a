package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// scheduled is a schedule as `countermand schedule show -o json` prints it.
type scheduled struct {
	ID       string
	Revision int64
	State    struct {
		Next            time.Time
		Paused          bool
		Note            string
		Started, Missed int
	}
	Next    []time.Time
	Firings []struct {
		ID, Kind, Outcome string
		At                time.Time
	}
}

func order(token string) string {
	return fmt.Sprintf(`{"customer":"clock","currency":"EUR","items":[{"sku":"TEA-001","quantity":1}],"payment":{"token":%q}}`, token)
}

// create makes a schedule that starts checkouts and is gone after the test.
func create(t *testing.T, id, token string, flags ...string) {
	t.Helper()
	result := countermand(t, append([]string{"schedule", "create", id, "--command", "shop.checkout.request.v1", "--data", order(token)}, flags...)...)
	if result.Code != 0 {
		t.Fatalf("create ended %+v", result)
	}
	t.Cleanup(func() {
		// The context of the test has ended by now.
		result, err := product.Run(context.WithoutCancel(t.Context()), binary, []string{"COUNTERMAND_ADMIN_URL=" + operator.Base}, "schedule", "delete", id)
		if err != nil || result.Code != 0 && result.Code != 4 {
			t.Errorf("delete ended %+v, %v", result, err)
		}
	})
}

func show(t *testing.T, id string) scheduled {
	t.Helper()
	var s scheduled
	result := countermand(t, "schedule", "show", id, "-o", "json")
	if err := json.Unmarshal([]byte(result.Stdout), &s); err != nil || result.Code != 0 {
		t.Fatalf("show ended %+v: %v", result, err)
	}
	return s
}

// completed waits until the saga of a firing has completed. At first nobody knows
// it: its command is on the way to the engine.
func completed(t *testing.T, id string) {
	t.Helper()
	err := product.Await(t.Context(), endTimeout, func() error {
		_, err := operator.Saga(t.Context(), id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	finished(t, id, "completed")
}

func TestAScheduleStartsSagas(t *testing.T) {
	t.Parallel()
	create(t, "e2e-every-second", "tok_ok", "--every", "1s", "--limit", "2", "--catch-up", "all")
	var s scheduled
	err := product.Await(t.Context(), endTimeout, func() error {
		if s = show(t, "e2e-every-second"); s.State.Started < 2 {
			return errors.New("it has not fired twice")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !s.State.Next.IsZero() || len(s.Next) != 0 {
		t.Errorf("after its limit it goes on: %+v", s)
	}
	started := 0
	for _, firing := range s.Firings {
		if firing.Outcome == "started" { // it was skipped when the saga before took longer than a second
			started++
			completed(t, firing.ID)
		}
	}
	if started != 2 {
		t.Errorf("firings are %+v, want 2 that started", s.Firings)
	}
}

func TestAnOperatorRulesASchedule(t *testing.T) {
	t.Parallel()
	const id = "e2e-nightly"
	create(t, id, "tok_slow", "--cron", "30 4 * * *", "--zone", "Europe/Berlin")
	if s := show(t, id); len(s.Next) != 5 || s.Next[0].Minute() != 30 || s.Next[0].Hour() != 4 {
		t.Errorf("the next firings are %v", s.Next)
	}
	for name, test := range map[string]struct {
		args []string
		code int
		says string
	}{
		"a second one":        {[]string{"create", id, "--every", "1h", "--command", "shop.checkout.request.v1"}, 5, "fix: replace it with --replace"},
		"an unknown command":  {[]string{"create", "e2e-x", "--every", "1h", "--command", "shop.chekout.request.v1"}, 2, "shop.checkout.request.v1"},
		"a bad expression":    {[]string{"create", "e2e-x", "--cron", "0 25 * * *", "--command", "shop.checkout.request.v1"}, 2, "when.cron"},
		"an unknown schedule": {[]string{"trigger", "e2e-nothing"}, 4, "schedule_not_found"},
	} {
		if result := countermand(t, append([]string{"schedule"}, test.args...)...); result.Code != test.code || !strings.Contains(result.Stderr, test.says) {
			t.Errorf("%s ended %+v, want code %d and %q", name, result, test.code, test.says)
		}
	}

	if result := countermand(t, "schedule", "pause", id, "--note", "stocktaking"); result.Code != 0 || !strings.Contains(result.Stdout, "stocktaking") {
		t.Errorf("pause ended %+v", result)
	}
	triggered := countermand(t, "schedule", "trigger", id)
	saga := strings.TrimSpace(triggered.Stdout)
	if triggered.Code != 0 || saga == "" {
		t.Fatalf("trigger ended %+v", triggered)
	}
	if result := countermand(t, "schedule", "trigger", id); result.Code != 5 || !strings.Contains(result.Stderr, "--force") {
		t.Errorf("a second trigger while the saga runs ended %+v", result)
	}
	completed(t, saga)
	again := countermand(t, "schedule", "trigger", id, "-o", "json")
	var firing struct{ ID, Kind string }
	if err := json.Unmarshal([]byte(again.Stdout), &firing); err != nil || again.Code != 0 || firing.Kind != "triggered" {
		t.Fatalf("a trigger after the end of the saga ended %+v: %v", again, err)
	}
	completed(t, firing.ID)
	if result := countermand(t, "schedule", "resume", id); result.Code != 0 || strings.Contains(result.Stdout, "stocktaking") {
		t.Errorf("resume ended %+v", result)
	}

	if result := countermand(t, "schedule", "create", id, "--replace", "--every", "1h", "--command", "shop.checkout.request.v1", "--data", order("tok_ok"), "--overlap", "allow_all"); result.Code != 0 {
		t.Fatalf("replace ended %+v", result)
	}
	today := time.Now().UTC().Truncate(24 * time.Hour).Add(-24 * time.Hour)
	result := countermand(t, "schedule", "backfill", id, "--from", today.Format(time.RFC3339), "--to", today.Add(3*time.Hour).Format(time.RFC3339))
	if result.Code != 0 {
		t.Fatalf("backfill ended %+v", result)
	}
	var s scheduled
	err := product.Await(t.Context(), endTimeout, func() error {
		s = show(t, id)
		if n := len(s.Firings); n < 5 {
			return fmt.Errorf("%d firings, want two triggered and three backfilled ones", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, firing := range s.Firings {
		if firing.Kind == "backfilled" {
			completed(t, firing.ID)
		}
	}

	list := countermand(t, "schedule", "list", "-o", "json")
	var all []scheduled
	if err := json.Unmarshal([]byte(list.Stdout), &all); err != nil || !slices.ContainsFunc(all, func(s scheduled) bool { return s.ID == id }) {
		t.Errorf("the list ended %+v: %v", list, err)
	}
	if result := countermand(t, "schedule", "delete", id); result.Code != 0 || result.Stdout != "" {
		t.Errorf("delete ended %+v", result)
	}
	if result := countermand(t, "schedule", "show", id); result.Code != 4 {
		t.Errorf("show of a deleted schedule ended %+v", result)
	}
}

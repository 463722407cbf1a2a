package e2e

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/countermand/countermand/tests/internal/product"
)

// ask reads a path of the admin listener.
func ask(t *testing.T, path string) product.Answer {
	t.Helper()
	answer, err := operator.Do(t.Context(), http.MethodGet, path, "")
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestAProbeFindsTheProcessAliveAndReady(t *testing.T) {
	t.Parallel()
	if answer := ask(t, "/livez"); answer.Status != http.StatusOK {
		t.Errorf("/livez answered %s, want 200", answer)
	}
	answer := ask(t, "/readyz")
	var report struct {
		Status string
		Checks map[string]struct{ Status string }
	}
	if err := json.Unmarshal(answer.Body, &report); err != nil || answer.Status != http.StatusOK || report.Status != "ready" {
		t.Fatalf("/readyz answered %s (error %v), want 200 and ready", answer, err)
	}
	for _, role := range []string{"engine", "order", "payment", "inventory", "gateway"} {
		for _, needs := range []string{"postgres/", "broker/"} {
			if check := report.Checks[needs+role]; check.Status != "ok" {
				t.Errorf("check %s%s is %q, want ok", needs, role, check.Status)
			}
		}
	}
}

func TestAnOperatorSeesASagaWithItsUndos(t *testing.T) {
	t.Parallel()
	id := accepted(t, place(t, product.NewCheckout("operator", "MUG-001", 2, "tok_capture_fails")))
	finished(t, id, "compensated")

	saga, err := operator.Saga(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if saga.ID != id || saga.Name != "checkout" || saga.Status != "compensated" || saga.State.Customer != "operator" || saga.State.Total != 2400 {
		t.Errorf("saga is %+v", saga)
	}
	if saga.Failure == nil || saga.Failure.Step != "capture-payment" || saga.Failure.Code != "capture_failed" {
		t.Errorf("failure is %+v, want capture_failed at capture-payment", saga.Failure)
	}
	if len(saga.Steps) != 6 {
		t.Fatalf("it has %d steps, want 6", len(saga.Steps))
	}
	// What was done is undone in reverse, each step once.
	for i, step := range saga.Steps[:3] {
		if step.Status != "compensated" || step.Do.Attempts != 1 || step.Undo.Attempts != 1 {
			t.Errorf("step is %+v, want it done once and undone once", step)
		}
		if i > 0 && step.Undo.SentAt.After(saga.Steps[i-1].Undo.SentAt) {
			t.Errorf("%s is undone at %s, after %s", step.Name, step.Undo.SentAt, saga.Steps[i-1].Name)
		}
	}
	answer := ask(t, "/admin/v1/sagas/"+id)
	if answer.Header.Get("ETag") == "" || answer.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers are %v, want an ETag and no-store", answer.Header)
	}
}

func TestAnUnknownSagaIsAProblemDocument(t *testing.T) {
	t.Parallel()
	for path, status := range map[string]int{
		"/admin/v1/sagas/0190a5b0-7d10-8c44-9d6c-0a1b2c3d4e5f": http.StatusNotFound,
		"/admin/v1/sagas/nonsense":                             http.StatusNotFound,
		"/admin/v1/sagas?status=sleepy":                        http.StatusBadRequest,
		"/admin/v1/sagas?limit=0":                              http.StatusBadRequest,
		"/admin/v1/sagas?limit=501":                            http.StatusBadRequest,
		"/admin/v1/sagas?limit=ten":                            http.StatusBadRequest,
		"/admin/v1/sagas?cursor=nonsense":                      http.StatusBadRequest,
	} {
		answer := ask(t, path)
		var p product.Problem
		if err := answer.Decode(&p); err != nil || answer.Status != status || p.Status != status || p.Code == "" ||
			answer.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("GET %s answered %s (error %v), want a problem document with %d", path, answer, err, status)
		}
	}
}

// TestAListOfSagasHasEachOnce runs alone: the list must not grow meanwhile.
func TestAListOfSagasHasEachOnce(t *testing.T) {
	for _, token := range []string{"tok_ok", "tok_declined", "tok_ok", "tok_declined"} {
		answer := place(t, product.NewCheckout("list", "TEA-001", 1, token), "Prefer: wait=10")
		if answer.Status >= http.StatusInternalServerError {
			t.Fatalf("answered %s", answer)
		}
	}
	count := sagaCount(t)
	for _, size := range []int{1, 3, 500} {
		sagas, err := operator.Sagas(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		ids := make(map[string]bool)
		for _, saga := range sagas {
			ids[saga.ID] = true
		}
		if len(sagas) != count || len(ids) != count {
			t.Errorf("in pages of %d it lists %d sagas, %d of them different, want %d", size, len(sagas), len(ids), count)
		}
	}
	var list struct{ Sagas []product.Saga }
	if err := json.Unmarshal(ask(t, "/admin/v1/sagas?status=compensated&definition=checkout&limit=500").Body, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Sagas) == 0 || slices.ContainsFunc(list.Sagas, func(s product.Saga) bool { return s.Status != "compensated" }) {
		t.Errorf("the filter gives %+v, want compensated sagas only", list.Sagas)
	}
	if answer := ask(t, "/admin/v1/sagas?definition=nothing"); strings.TrimSpace(string(answer.Body)) != `{"sagas":[]}` {
		t.Errorf("a list of none is %s, want an empty array", answer)
	}
}

func TestNothingOfTheShopIsOnTheAdminListener(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/v1/orders", "/v1/operations/x", "/v1/inventory/TEA-001"} {
		if answer := ask(t, path); answer.Status != http.StatusNotFound {
			t.Errorf("GET %s answered %s, want 404", path, answer)
		}
	}
}

// The admin listener asks for no credential, so a page that an operator's browser shows
// must not give orders on it, to whatever part of it.
func TestPagesOfOtherSitesGiveNoOrders(t *testing.T) {
	t.Parallel()
	for _, order := range []string{
		"POST sagas:bulk", "POST sagas/x:pause", "POST dead-letters:bulk", "POST consumers:replay", "POST outboxes:flush", "POST keys",
		"POST webhooks/x/pause", "POST schedules/x/trigger", "POST schedules/x/backfill", "POST ai/prompts", "PUT routes/table",
	} {
		method, path, _ := strings.Cut(order, " ")
		answer, err := operator.Do(t.Context(), method, "/admin/v1/"+path, "{}", "Origin: https://evil.example")
		if err != nil {
			t.Fatal(err)
		}
		if answer.Status != http.StatusForbidden {
			t.Errorf("%s of another site is answered %s, want 403", order, answer)
		}
	}
}

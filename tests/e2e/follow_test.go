package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/tests/internal/product"
)

// call sends a request without a body.
func call(t *testing.T, method, path string, headers ...string) product.Answer {
	t.Helper()
	answer, err := shop.Do(t.Context(), method, path, "", headers...)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// wantCode checks the status and the code of a problem.
func wantCode(t *testing.T, answer product.Answer, status int, code string) {
	t.Helper()
	if answer.Status != status || !strings.Contains(string(answer.Body), fmt.Sprintf("%q:%q", "code", code)) {
		t.Errorf("answered %s, want %d %s", answer, status, code)
	}
}

// waitsFor waits until a step of an operation is as it should be.
func waitsFor(t *testing.T, id, step, status string) {
	t.Helper()
	want := fmt.Sprintf(`"name":%q,"status":%q`, step, status)
	err := product.Await(t.Context(), 20*time.Second, func() error {
		if answer := call(t, http.MethodGet, "/v1/operations/"+id); !strings.Contains(string(answer.Body), want) {
			return fmt.Errorf("operation is %s", answer)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCancelUndoesAnOrder(t *testing.T) {
	t.Parallel()
	id := accepted(t, place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_slow")))
	waitsFor(t, id, "authorize-payment", "running")
	first := call(t, http.MethodDelete, "/v1/operations/"+id)
	if first.Status != http.StatusAccepted || first.Header.Get("Location") != "/v1/operations/"+id || first.Header.Get("Retry-After") == "" {
		t.Errorf("answered %s with %v", first, first.Header)
	}
	waited := call(t, http.MethodDelete, "/v1/operations/"+id, "Prefer: wait=20")
	if waited.Status != http.StatusOK || !strings.Contains(string(waited.Body), `"code":"cancelled"`) {
		t.Errorf("answered %s, want the cancelled operation", waited)
	}
	finished(t, id, "compensated")
	if again := call(t, http.MethodDelete, "/v1/operations/"+id); again.Status != http.StatusAccepted {
		t.Errorf("a repeat is answered %s, want 202", again)
	}
	order, found, err := shop.Order(t.Context(), id)
	if err != nil || !found || order.Status != "cancelled" {
		t.Errorf("order is %+v, %v, %v", order, found, err)
	}
}

func TestWhatCannotBeCancelledSaysWhy(t *testing.T) {
	t.Parallel()
	done := operationOf(t, place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_ok"), "Prefer: wait=10"))
	wantCode(t, call(t, http.MethodDelete, "/v1/operations/"+done), http.StatusConflict, "operation_ended")
	wantCode(t, call(t, http.MethodDelete, "/v1/operations/4f6b0f3e-1111-8111-8111-111111111111"), http.StatusNotFound, "operation_not_found")
	wantCode(t, call(t, http.MethodDelete, "/v1/operations/"+done, "Prefer: wait=soon, handling=strict"), http.StatusBadRequest, "preference_refused")
}

// event is one server-sent event.
type event struct{ name, id, data string }

// follow reads a stream to its end.
func follow(t *testing.T, path string, headers ...string) (events []event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, shop.Base+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("answered %d as %s", response.StatusCode, response.Header.Get("Content-Type"))
	}
	var e event
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "event":
			e.name = value
		case "id":
			e.id = value
		case "data":
			e.data = value
		case "":
			if e.name != "" {
				events, e = append(events, e), event{}
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return events
}

func TestAClientFollowsAnOrderThatIsUndone(t *testing.T) {
	t.Parallel()
	id := accepted(t, place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_capture_fails")))
	path := "/v1/operations/" + id + "/events"
	all := follow(t, path)
	last := all[len(all)-1]
	if len(all) < 2 || last.name != "done" || !strings.Contains(last.data, `"status":"compensated"`) || all[0].name != "status" {
		t.Fatalf("events %+v", all)
	}
	for i, e := range all[:len(all)-1] {
		if e.name != "status" || i > 0 && e.id == all[i-1].id {
			t.Errorf("event %d is %+v", i, e)
		}
	}
	if resumed := follow(t, path, "Last-Event-ID: 1"); len(resumed) != 2 || resumed[1].name != "done" {
		t.Errorf("resumed with %+v, want the last status and done", resumed)
	}
	if answer := call(t, http.MethodGet, path, "Last-Event-ID: "+last.id); answer.Status != http.StatusNoContent {
		t.Errorf("after the end: %s, want 204", answer)
	}
	wantCode(t, call(t, http.MethodGet, path, "Last-Event-ID: x"), http.StatusBadRequest, "query_invalid")
	wantCode(t, call(t, http.MethodGet, path, "Accept: application/json"), http.StatusNotAcceptable, "not_acceptable")
	wantCode(t, call(t, http.MethodGet, "/v1/operations/4f6b0f3e-1111-8111-8111-111111111111/events"), http.StatusNotFound, "operation_not_found")
}

func TestOperationsAreListedPageByPage(t *testing.T) {
	t.Parallel()
	since := time.Now().UTC().Add(-time.Second).Format(time.RFC3339Nano)
	want := make(map[string]bool)
	for range 3 {
		want[operationOf(t, place(t, product.NewCheckout("ada", "TEA-001", 1, "tok_ok"), "Prefer: wait=10"))] = true
	}
	path := "/v1/operations?status=completed&command=shop.checkout.request.v1&limit=2&created_after=" + since
	for pages := 0; path != ""; pages++ {
		answer := call(t, http.MethodGet, path)
		var list struct {
			Operations []struct {
				ID, Status, Command string
			}
		}
		if err := json.Unmarshal(answer.Body, &list); err != nil || answer.Status != http.StatusOK || len(list.Operations) > 2 || pages > 200 {
			t.Fatalf("answered %s, %v", answer, err)
		}
		for _, op := range list.Operations {
			if op.Status != "completed" || op.Command != "shop.checkout.request.v1" {
				t.Errorf("operation %+v does not fit the filter", op)
			}
			delete(want, op.ID)
		}
		path, _, _ = strings.Cut(strings.TrimPrefix(answer.Header.Get("Link"), "<"), ">")
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
	for _, query := range []string{"x=1", "limit=0", "limit=201", "status=done", "command=nothing.v1", "created_after=today", "cursor=x", "limit=1&limit=2"} {
		wantCode(t, call(t, http.MethodGet, "/v1/operations?"+query), http.StatusBadRequest, "query_invalid")
	}
}

func TestACommandThatComesTooLate(t *testing.T) {
	t.Parallel()
	order := product.NewCheckout("ada", "TEA-001", 1, "tok_ok")
	wantCode(t, place(t, order, "Ce-Expirytime: 2020-01-01T00:00:00Z"), http.StatusUnprocessableEntity, "expired")
	wantCode(t, place(t, order, "Ce-Expirytime: soon"), http.StatusBadRequest, "expirytime_invalid")
	in := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	finished(t, accepted(t, place(t, order, "Ce-Expirytime: "+in)), "completed")
}

func TestStrictHandling(t *testing.T) {
	t.Parallel()
	slow := product.NewCheckout("ada", "TEA-001", 1, "tok_slow")
	wantCode(t, place(t, slow, "Prefer: wait=31, handling=strict"), http.StatusBadRequest, "preference_refused")
	key := "Idempotency-Key: strict-" + strconv.FormatInt(time.Now().UnixNano(), 10)
	id := accepted(t, place(t, slow, key))
	wantCode(t, place(t, slow, key, "Prefer: handling=strict"), http.StatusConflict, "operation_unfinished")
	if lenient := accepted(t, place(t, slow, key)); lenient != id {
		t.Errorf("a lenient repeat began %s, want %s", lenient, id)
	}
	finished(t, id, "completed")
}

package admin_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/saga"
)

const (
	signature = `"by":"ada","reason":"a test"`
	plain     = `{` + signature + `}`
)

func TestVerbs(t *testing.T) {
	o := newOffice(t)
	post := func(id, verb, body string, headers ...string) answer {
		t.Helper()
		return o.do(http.MethodPost, "/admin/v1/sagas/"+id+":"+verb, body, headers...)
	}
	done := func(a answer) admin.OrderResult {
		t.Helper()
		return decode[admin.OrderResult](o, a)
	}
	t.Run("a saga is driven to its end by hand", func(t *testing.T) {
		id := o.begin("driven")
		if r := done(post(id, "pause", plain)); !r.Saga.Paused || r.Saga.Revision != 2 {
			t.Errorf("pause: %+v", r)
		}
		if r := done(post(id, "resume", plain)); r.Saga.Paused || len(r.Sends) != 1 || r.Sends[0].Step != "hold-car" {
			t.Errorf("resume: %+v", r)
		}
		if r := done(post(id, "complete", `{`+signature+`,"step":"hold-car","data":{"keys":2}}`)); string(r.Saga.State) != `{"car":"driven","keys":2}` {
			t.Errorf("complete: %s", r.Saga.State)
		}
		if r := done(post(id, "edit", `{`+signature+`,"data":{"car":"other","keys":1}}`)); string(r.Saga.State) != `{"car":"other","keys":1}` {
			t.Errorf("edit: %s", r.Saga.State)
		}
		if r := done(post(id, "signal", `{`+signature+`,"step":"signature","data":{"keys":4},"id":"s-1"}`)); string(r.Saga.State) != `{"car":"other","keys":5}` || len(r.Sends) != 1 {
			t.Errorf("signal: %+v", r)
		}
		if r := done(post(id, "retry", plain)); len(r.Sends) != 1 || r.Sends[0].Type != hand.Type() {
			t.Errorf("retry: %+v", r)
		}
		if r := done(post(id, "skip", `{`+signature+`,"step":"hand-over"}`)); r.Saga.Status != saga.Completed || len(r.Sends) != 1 || r.Sends[0].Step != "" {
			t.Errorf("skip: %+v", r)
		}
		o.problem(post(id, "abandon", plain), http.StatusConflict, "saga_ended")
	})
	t.Run("what is previewed is what is sent", func(t *testing.T) {
		id := o.begin("previewed")
		preview := decode[saga.Preview](o, o.do(http.MethodGet, "/admin/v1/sagas/"+id+"/preview", ""))
		result := done(post(id, "compensate", plain, `If-Match: "1"`))
		if len(preview.Sends) != 1 || len(result.Sends) != 1 || preview.Sends[0].ID != result.Sends[0].ID || !preview.Sends[0].InDoubt || preview.Ends != saga.Compensated {
			t.Errorf("preview %+v, sent %+v", preview, result.Sends)
		}
		o.problem(post(id, "cancel", plain), http.StatusConflict, "already_compensating")
	})
	t.Run("a dry run does nothing", func(t *testing.T) {
		id := o.begin("dry")
		before := o.sent(release.Type())
		answer := post(id, "cancel?dry_run=true", plain)
		if r := done(answer); !r.DryRun || r.Saga.Status != saga.Compensating || len(r.Sends) != 1 || answer.header.Get("ETag") != "" {
			t.Errorf("dry run: %+v", r)
		}
		if in := decode[admin.Saga](o, o.do(http.MethodGet, "/admin/v1/sagas/"+id, "")); in.Status != saga.Running || in.Revision != 1 || o.sent(release.Type()) != before {
			t.Errorf("it did something: %+v", in)
		}
	})
	t.Run("whoever comes second is told that the saga has moved", func(t *testing.T) {
		id := o.begin("raced")
		seen := o.do(http.MethodGet, "/admin/v1/sagas/"+id, "").header.Get("ETag")
		first := post(id, "pause", plain, "If-Match: "+seen)
		if first.status != http.StatusOK || first.header.Get("ETag") != `"2"` {
			t.Errorf("the first is answered %d %s, ETag %s", first.status, first.body, first.header.Get("ETag"))
		}
		o.problem(post(id, "abandon", plain, "If-Match: "+seen), http.StatusPreconditionFailed, "revision_moved")
		if r := done(post(id, "abandon", plain, "If-Match: *")); r.Saga.Status != saga.Abandoned {
			t.Errorf("abandon: %+v", r)
		}
	})
	t.Run("what is wrong is told", func(t *testing.T) {
		id := o.begin("wrong")
		large := `{` + signature + `,"data":"` + strings.Repeat("x", 2<<20) + `"}`
		for _, test := range []struct {
			verb, body string
			status     int
			code       string
			headers    []string
		}{
			{"dance", plain, http.StatusNotFound, "verb_not_found", nil},
			{"pause", `{"by":"ada"}`, http.StatusUnprocessableEntity, "reason_required", nil},
			{"pause", `{` + signature + `,"force":true}`, http.StatusBadRequest, "invalid_body", nil},
			{"pause", `{` + signature + `,"by":"eve"}`, http.StatusBadRequest, "invalid_body", nil},
			{"pause", plain + plain, http.StatusBadRequest, "invalid_body", nil},
			{"pause", `{`, http.StatusBadRequest, "invalid_body", nil},
			{"pause", plain, http.StatusUnsupportedMediaType, "unsupported_media_type", []string{"Content-Type: text/plain"}},
			{"pause", large, http.StatusRequestEntityTooLarge, "body_too_large", nil},
			{"pause", `{"by":"ada","reason":"` + strings.Repeat("x", 1001) + `"}`, http.StatusUnprocessableEntity, "invalid_request", nil},
			{"pause", `{` + signature + `,"id":"x"}`, http.StatusUnprocessableEntity, "invalid_request", nil},
			{"pause?dry_run=perhaps", plain, http.StatusBadRequest, "invalid_dry_run", nil},
			{"pause?force=true", plain, http.StatusBadRequest, "unknown_parameter", nil},
			{"pause", plain, http.StatusBadRequest, "invalid_if_match", []string{"If-Match: W/\"1\""}},
			{"pause", plain, http.StatusPreconditionFailed, "revision_moved", []string{`If-Match: "7"`}},
			{"resume", plain, http.StatusConflict, "not_paused", nil},
			{"skip", plain, http.StatusUnprocessableEntity, "step_not_found", nil},
			{"edit", `{` + signature + `,"data":{"car":7}}`, http.StatusUnprocessableEntity, "invalid_data", nil},
			{"signal", `{` + signature + `,"step":"test.other.fact.v1"}`, http.StatusUnprocessableEntity, "signal_not_awaited", nil},
			{"pause", plain, http.StatusForbidden, "cross_origin", []string{"Origin: https://evil.example"}},
			{"pause", plain, http.StatusForbidden, "host_not_allowed", []string{"Host: evil.example"}},
		} {
			o.problem(post(id, test.verb, test.body, test.headers...), test.status, test.code)
		}
		o.problem(post("0190a5b0-7d10-8c44-9d6c-0a1b2c3d4e5f", "pause", plain), http.StatusNotFound, "saga_not_found")
		o.problem(post("x", "pause", plain), http.StatusNotFound, "saga_not_found")
		if in := decode[admin.Saga](o, o.do(http.MethodGet, "/admin/v1/sagas/"+id, "")); in.Revision != 1 {
			t.Errorf("the saga has moved: %+v", in)
		}
	})
}

func TestReading(t *testing.T) {
	o := newOffice(t)
	id, other := o.begin("blue"), o.begin("red")
	if a := o.do(http.MethodPost, "/admin/v1/sagas/"+other+":abandon", plain); a.status != http.StatusOK {
		t.Fatal(a.body)
	}
	get := func(path string, headers ...string) answer {
		t.Helper()
		return o.do(http.MethodGet, "/admin/v1/"+path, "", headers...)
	}
	t.Run("sagas are found by every field", func(t *testing.T) {
		for query, want := range map[string][]string{
			"":                                     {other, id},
			"limit=1":                              {other},
			"status=running":                       {id},
			"definition=rental&status=abandoned":   {other},
			"definition=else":                      {},
			"code=abandoned":                       {other},
			"step=hold-car":                        {id},
			"attribute.car=blue":                   {id},
			"attribute.car=green":                  {},
			"created_after=2020-01-01T00:00:00Z":   {other, id},
			"created_before=2020-01-01T00:00:00Z":  {},
			"updated_before=2020-01-01T00:00:00Z":  {},
			"updated_before=2999-01-01T00:00:00Z":  {other, id},
			"attribute.car=red&status=compensated": {},
		} {
			list := decode[admin.List](o, get("sagas?"+query))
			var found []string
			for _, s := range list.Sagas {
				found = append(found, s.ID)
			}
			if !slices.Equal(found, want) && len(found)+len(want) > 0 {
				t.Errorf("%s finds %v, want %v", query, found, want)
			}
			if query == "limit=1" {
				next := decode[admin.List](o, get("sagas?cursor="+url.QueryEscape(list.Next)))
				if len(next.Sagas) != 1 || next.Sagas[0].ID != id {
					t.Errorf("the next page is %+v", next)
				}
			}
		}
	})
	t.Run("what is wrong with a query is told", func(t *testing.T) {
		for query, code := range map[string]string{
			"status=sleepy": "invalid_status", "limit=0": "invalid_limit", "limit=501": "invalid_limit", "cursor=x": "invalid_cursor",
			"created_after=today": "invalid_created_after", "order=asc": "unknown_parameter", "attribute.=x": "unknown_parameter",
			"step=a&step=b": "invalid_parameter",
		} {
			o.problem(get("sagas?"+query), http.StatusBadRequest, code)
		}
	})
	t.Run("a saga is not sent twice", func(t *testing.T) {
		first := get("sagas/" + id)
		if again := get("sagas/"+id, "If-None-Match: "+first.header.Get("ETag")); again.status != http.StatusNotModified || again.body != "" {
			t.Errorf("answered %d %s", again.status, again.body)
		}
	})
	t.Run("counts", func(t *testing.T) {
		if counts := decode[map[string]int](o, get("sagas:counts")); !maps.Equal(counts, map[string]int{"running": 1, "abandoned": 1}) {
			t.Errorf("counts %v", counts)
		}
		if waiting := decode[map[string]map[string]int](o, get("sagas:waiting")); waiting["rental"]["hold-car"] != 1 {
			t.Errorf("waiting %v", waiting)
		}
	})
	t.Run("the history names who gave an order", func(t *testing.T) {
		history := decode[admin.History](o, get("sagas/"+other+"/history"))
		if n := len(history.Entries); n != 2 || history.Entries[1].Cause.Order == nil || history.Entries[1].Cause.Order.By != "ada" {
			t.Errorf("history %+v", history)
		}
		export := decode[saga.Export](o, get("sagas/"+other+"/export"))
		if all, err := saga.Import(export); err != nil || len(all) != 2 || all[1].Status != saga.Abandoned {
			t.Errorf("import of the export: %+v, %v", all, err)
		}
	})
	t.Run("a history that was tampered with is not shown as one", func(t *testing.T) {
		bad := o.begin("bad")
		if _, err := o.pool.Exec(t.Context(), "update saga set hash = '\\x00' where id = $1", bad); err != nil {
			t.Fatal(err)
		}
		o.problem(get("sagas/"+bad+"/history"), http.StatusInternalServerError, "history_tampered")
	})
	t.Run("definitions and their pictures", func(t *testing.T) {
		if all := decode[admin.Definitions](o, get("definitions")); len(all.Definitions) != 1 || all.Definitions[0].Name != "rental" {
			t.Errorf("definitions %+v", all)
		}
		if g := decode[saga.Graph](o, get("definitions/rental?version=1")); g.Start != rent.Type() {
			t.Errorf("definition %+v", g)
		}
		for format, begins := range map[string]string{"json": "{", "": "{", "mermaid": "flowchart LR", "svg": "<svg "} {
			if a := get("definitions/rental/graph?format=" + format); a.status != http.StatusOK || !strings.HasPrefix(a.body, begins) {
				t.Errorf("%s is answered %d %s", format, a.status, a.body)
			}
		}
		o.problem(get("definitions/else"), http.StatusNotFound, "definition_not_found")
		o.problem(get("definitions/rental/graph?version=2"), http.StatusNotFound, "definition_not_found")
		o.problem(get("definitions/rental?version=x"), http.StatusBadRequest, "invalid_version")
		o.problem(get("definitions/rental/graph?format=png"), http.StatusBadRequest, "invalid_format")
	})
	t.Run("a page that had its name resolved to loopback reads nothing", func(t *testing.T) {
		o.problem(get("sagas", "Host: evil.example:8081"), http.StatusForbidden, "host_not_allowed")
		for _, host := range []string{"localhost:8081", "127.0.0.1", "[::1]:8081"} {
			if a := get("sagas", "Host: "+host); a.status != http.StatusOK || a.header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("host %s is answered %d %v", host, a.status, a.header)
			}
		}
	})
}

func TestBulkTellsOfEachSaga(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	ids := []string{o.begin("one"), o.begin("two"), o.begin("three")}
	if a := o.do(http.MethodPost, "/admin/v1/sagas/"+ids[0]+":pause", plain); a.status != http.StatusOK {
		t.Fatal(a.body)
	}
	bulk := func(more string) answer {
		t.Helper()
		return o.do(http.MethodPost, "/admin/v1/sagas:bulk", `{`+signature+`,"rate":1000,"verb":"pause","filter":{"status":"running","definition":"rental"}`+more+`}`)
	}
	lines := func(a answer) (all []admin.BulkLine) {
		t.Helper()
		if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/jsonl" {
			t.Fatalf("answered %d %s", a.status, a.body)
		}
		for text := range strings.Lines(a.body) {
			var line admin.BulkLine
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatal(err)
			}
			all = append(all, line)
		}
		return all
	}
	dry := lines(bulk(`,"dry_run":true`))
	if len(dry) != 5 || dry[0].Event != "selected" || dry[0].Count.Selected != 3 || dry[4].Event != "finished" || dry[4].Count.Done != 2 {
		t.Errorf("dry run: %+v", dry)
	}
	o.problem(bulk(`,"expected_count":2`), http.StatusConflict, "count_differs")
	o.problem(bulk(""), http.StatusConflict, "count_differs")
	real := lines(bulk(`,"expected_count":3`))
	refused := 0
	for _, line := range real[1:4] {
		if line.Saga.Outcome == saga.BulkRefused && line.Saga.ID == ids[0] && line.Saga.Code == "already_paused" {
			refused++
		}
	}
	if last := real[len(real)-1]; refused != 1 || last.Event != "finished" || last.Count.Done != 2 || last.Count.Refused != 1 {
		t.Errorf("bulk: %+v", real)
	}
	o.problem(bulk(`,"expected_count":3,"rate":-1`), http.StatusBadRequest, "invalid_body") // rate comes twice
	o.problem(o.do(http.MethodPost, "/admin/v1/sagas:bulk", `{`+signature+`,"verb":"dance","filter":{}}`), http.StatusUnprocessableEntity, "invalid_verb")
	o.problem(o.do(http.MethodPost, "/admin/v1/sagas:bulk", `{`+signature+`,"verb":"pause","filter":{"status":"sleepy"}}`), http.StatusUnprocessableEntity, "invalid_status")
	o.problem(o.do(http.MethodPost, "/admin/v1/sagas:bulk", `{`+signature+`,"verb":"pause","filter":{},"rate":5000}`), http.StatusUnprocessableEntity, "invalid_rate")
}

// Where sagas can only be read there are no verbs.
func TestAReaderOffersNoVerbs(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	id := o.begin("read")
	mux := http.NewServeMux()
	admin.Register(mux, admin.Config{Reader: saga.NewReader(o.pool), Logger: slog.New(slog.DiscardHandler)})
	for path, want := range map[string]int{
		"GET /admin/v1/sagas/" + id:                 http.StatusOK,
		"GET /admin/v1/sagas/" + id + "/preview":    http.StatusNotFound,
		"POST /admin/v1/sagas/" + id + ":pause":     http.StatusMethodNotAllowed,
		"POST /admin/v1/sagas:bulk":                 http.StatusNotFound,
		"GET /admin/v1/definitions/rental":          http.StatusOK,
		"POST /admin/v1/definitions/rental":         http.StatusMethodNotAllowed,
		"GET /admin/v1/sagas/" + id + "/export":     http.StatusOK,
		"DELETE /admin/v1/sagas/" + id + "/history": http.StatusMethodNotAllowed,
	} {
		method, target, _ := strings.Cut(path, " ")
		request := httptest.NewRequest(method, target, strings.NewReader(plain))
		request.Header.Set("Content-Type", "application/json")
		recorder := httptest.NewRecorder()
		mux.ServeHTTP(recorder, request)
		if recorder.Code != want {
			t.Errorf("%s is answered %d, want %d", path, recorder.Code, want)
		}
	}
}

// The document has the routes that there are, and no others.
func TestTheContractHasTheRealRoutes(t *testing.T) {
	t.Parallel()
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		}
	}
	if err := json.Unmarshal(admin.OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	var described []string
	for path, methods := range doc.Paths {
		for method := range methods {
			described = append(described, strings.ToUpper(method)+" "+path)
		}
	}
	registered := []string{
		"GET /admin/openapi.json", "GET /admin/v1/sagas", "GET /admin/v1/sagas:counts", "GET /admin/v1/sagas:waiting", "GET /admin/v1/sagas/{id}",
		"GET /admin/v1/sagas/{id}/history", "GET /admin/v1/sagas/{id}/preview", "GET /admin/v1/sagas/{id}/export", "POST /admin/v1/sagas:bulk",
		"GET /admin/v1/definitions", "GET /admin/v1/definitions/{name}", "GET /admin/v1/definitions/{name}/graph",
		"GET /admin/v1/dead-letters", "GET /admin/v1/dead-letters:groups", "GET /admin/v1/dead-letters/{id}", "POST /admin/v1/dead-letters:bulk",
		"POST /admin/v1/dead-letters/{id}:redrive", "POST /admin/v1/dead-letters/{id}:discard", "POST /admin/v1/dead-letters/{id}:edit",
		"GET /admin/v1/keys", "POST /admin/v1/keys", "GET /admin/v1/keys/{id}", "POST /admin/v1/keys/{id}:rotate", "POST /admin/v1/keys/{id}:revoke",
		"GET /admin/v1/routes", "GET /admin/v1/routes/table", "PUT /admin/v1/routes/table", "GET /admin/v1/routes/schema",
		"GET /admin/v1/webhooks", "GET /admin/v1/webhooks/{id}", "DELETE /admin/v1/webhooks/{id}", "POST /admin/v1/webhooks/{id}/pause",
		"POST /admin/v1/webhooks/{id}/resume", "POST /admin/v1/webhooks/{id}/approve", "POST /admin/v1/webhooks/{id}/test",
		"GET /admin/v1/webhooks/{id}/deliveries", "GET /admin/v1/webhooks/{id}/deliveries/{delivery}", "POST /admin/v1/webhooks/{id}/redeliver",
		"GET /admin/v1/consumers", "POST /admin/v1/consumers:replay",
		"GET /admin/v1/outboxes", "GET /admin/v1/outboxes:stuck", "POST /admin/v1/outboxes:flush",
		"GET /admin/v1/outbox-rows/{id}", "POST /admin/v1/outbox-rows/{id}:requeue", "POST /admin/v1/outbox-rows/{id}:discard",
	}
	for _, verb := range append(saga.Verbs(), saga.SendSignal) {
		registered = append(registered, "POST /admin/v1/sagas/{id}:"+string(verb))
	}
	slices.Sort(described)
	slices.Sort(registered)
	if !slices.Equal(described, registered) {
		t.Errorf("the document describes\n%s\nwant\n%s", strings.Join(described, "\n"), strings.Join(registered, "\n"))
	}
	o := newOffice(t)
	id := o.begin("contract")
	o.setAside()
	parameter := regexp.MustCompile(`\{\w+\}`)
	for _, route := range described {
		method, path, _ := strings.Cut(route, " ")
		if strings.HasPrefix(path, "/admin/v1/routes") || strings.HasPrefix(path, "/admin/v1/webhooks") { // which other packages serve
			continue
		}
		value := id
		if strings.Contains(path, "definitions") {
			value = "rental"
		} else if strings.Contains(path, "keys") {
			value = o.key()
		} else if !strings.Contains(path, "sagas") {
			value = "office.1"
		}
		body := ""
		if method == http.MethodPost {
			body = "{}"
		}
		a := o.do(method, parameter.ReplaceAllString(path, value), body)
		want := map[string]int{http.MethodGet: http.StatusOK, http.MethodPost: http.StatusUnprocessableEntity}[method]
		switch {
		case strings.HasSuffix(path, "dead-letters/{id}:edit"):
			want = http.StatusPreconditionRequired
		case strings.HasSuffix(path, ":flush"): // which needs no body
			want = http.StatusOK
		}
		if a.status != want {
			t.Errorf("%s is answered %s", route, fmt.Sprint(a.status, " ", a.body))
		}
	}
	if served := o.do(http.MethodGet, "/admin/openapi.json", ""); served.body != string(admin.OpenAPI()) {
		t.Error("what is served is not the document")
	}
}

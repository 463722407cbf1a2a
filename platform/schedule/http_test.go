package schedule

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// api is the admin API of a rig.
type adminAPI struct {
	t    *testing.T
	base string
}

func serve(r *rig, s *Scheduler) adminAPI {
	mux := http.NewServeMux()
	Register(mux, s, nil, slog.New(slog.DiscardHandler))
	server := httptest.NewServer(mux)
	r.t.Cleanup(server.Close)
	return adminAPI{r.t, server.URL}
}

// do sends a request with headers as "Name: value" and decodes the answer.
func (a adminAPI) do(method, path, body string, into any, headers ...string) *http.Response {
	a.t.Helper()
	request, err := http.NewRequestWithContext(a.t.Context(), method, a.base+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Set(name, value)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		a.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(content, into); err != nil {
			a.t.Fatalf("%s %s answered %s: %s: %v", method, path, response.Status, content, err)
		}
	}
	return response
}

// refused expects a problem document.
func (a adminAPI) refused(method, path, body string, status int, code string, headers ...string) {
	a.t.Helper()
	var problem struct {
		Type, Title, Code, Detail string
		Status                    int
	}
	response := a.do(method, path, body, &problem, headers...)
	if response.StatusCode != status || problem.Code != code || problem.Status != status || problem.Type != "urn:countermand:problem:"+code ||
		problem.Detail == "" || response.Header.Get("Content-Type") != "application/problem+json" {
		a.t.Errorf("%s %s answered %s with %+v, want %d %s", method, path, response.Status, problem, status, code)
	}
}

func TestOperatorsChangeSchedulesOverHTTP(t *testing.T) {
	t.Parallel()
	r := setup(t)
	a := serve(r, r.scheduler())
	const nightly = "/admin/v1/schedules/nightly"
	const body = `{"when":{"cron":"0 6 * * *","zone":"Europe/Berlin","jitter":"1m30s"},"do":{"command":"shop.checkout.request.v1","data":{"Items":[]}}}`

	var got Record
	if response := a.do("PUT", nightly, body, &got, "If-None-Match: *"); response.StatusCode != http.StatusCreated || response.Header.Get("ETag") != `"1"` {
		t.Fatalf("create answered %s with %s", response.Status, response.Header.Get("ETag"))
	}
	if got.ID != "nightly" || got.Overlap != Skip || got.CatchUp != (CatchUp{Latest, windowDefault}) || got.When.Jitter != Duration(90*time.Second) ||
		!got.State.Next.Equal(time.Date(2026, 11, 20, 5, 0, 0, 0, time.UTC)) {
		t.Errorf("created %+v", got)
	}
	a.refused("PUT", nightly, body, http.StatusPreconditionFailed, "schedule_exists", "If-None-Match: *")
	a.refused("PUT", nightly, body, http.StatusPreconditionRequired, "precondition_required")
	a.refused("PUT", nightly, body, http.StatusPreconditionFailed, "revision_mismatch", `If-Match: "2"`)
	a.refused("PUT", nightly, body, http.StatusPreconditionFailed, "revision_mismatch", `If-Match: "x"`)
	a.refused("PUT", nightly, `{"when":{},"do":{}}`, http.StatusUnprocessableEntity, "invalid_schedule", `If-Match: "1"`)
	a.refused("PUT", nightly, `{"id":"other"}`, http.StatusUnprocessableEntity, "invalid_schedule", `If-Match: "1"`)
	a.refused("PUT", nightly, `{"when":{"every":"often"}}`, http.StatusBadRequest, "invalid_json", `If-Match: "1"`)
	a.refused("PUT", nightly, `{"cron":"0 6 * * *"}`, http.StatusBadRequest, "invalid_json", `If-Match: "1"`)
	a.refused("PUT", nightly, body+body, http.StatusBadRequest, "invalid_json", `If-Match: "1"`)
	a.refused("PUT", nightly, `{"id":"`+strings.Repeat("x", bodyBytesMax)+`"}`, http.StatusRequestEntityTooLarge, "body_too_large", `If-Match: "1"`)
	a.refused("PUT", "/admin/v1/schedules/Nightly", body, http.StatusUnprocessableEntity, "invalid_schedule", "If-None-Match: *")
	a.refused("PUT", "/admin/v1/schedules/other", body, http.StatusNotFound, "schedule_not_found", "If-Match: *")
	a.refused("DELETE", nightly, "", http.StatusPreconditionRequired, "precondition_required")

	a.do("POST", nightly+"/pause", `{"note":"holiday"}`, &got, `If-Match: "1"`)
	if !got.State.Paused || got.State.Note != "holiday" || got.Revision != 2 {
		t.Errorf("paused %+v", got)
	}
	a.refused("POST", nightly+"/resume", "", http.StatusPreconditionFailed, "revision_mismatch", `If-Match: "1"`)
	got = Record{}
	a.do("POST", nightly+"/resume", "", &got)
	if got.State.Paused || got.Revision != 3 {
		t.Errorf("resumed %+v", got)
	}
	a.refused("POST", nightly+"/pause", `{"note":"`+strings.Repeat("x", noteBytesMax+1)+`"}`, http.StatusUnprocessableEntity, "invalid_schedule")

	var firing Firing
	a.do("POST", nightly+"/trigger", "", &firing)
	if firing.Kind != Triggered || firing.ID == "" {
		t.Errorf("triggered %+v", firing)
	}
	a.refused("POST", nightly+"/trigger", "{}", http.StatusConflict, "saga_running")
	a.do("POST", nightly+"/trigger", `{"force":true}`, &firing)
	var firings FiringList
	a.do("GET", nightly+"/firings?limit=1", "", &firings)
	if len(firings.Firings) != 1 || firings.Firings[0].Kind != Triggered {
		t.Errorf("firings are %+v", firings)
	}

	var next NextList
	a.do("GET", nightly+"/next?n=3", "", &next)
	if len(next.Next) != 3 || next.Next[0].Format(time.RFC3339) != "2026-11-20T06:00:00+01:00" {
		t.Errorf("next are %v", next.Next)
	}
	a.refused("GET", nightly+"/next?n=0", "", http.StatusBadRequest, "invalid_n")
	a.refused("GET", nightly+"/firings?limit=x", "", http.StatusBadRequest, "invalid_limit")

	a.do("POST", nightly+"/backfill", `{"from":"2026-11-01T00:00:00Z","to":"2026-11-03T00:00:00Z","one_by_one":true}`, &got)
	if len(got.State.Backfills) != 1 || !got.State.Backfills[0].OneByOne {
		t.Errorf("backfills are %+v", got.State.Backfills)
	}
	a.refused("POST", nightly+"/backfill", `{"from":"2026-11-03T00:00:00Z","to":"2026-11-01T00:00:00Z"}`, http.StatusUnprocessableEntity, "invalid_schedule")

	if response := a.do("DELETE", nightly, "", nil, `If-Match: "4"`); response.StatusCode != http.StatusNoContent {
		t.Errorf("delete answered %s", response.Status)
	}
	for _, path := range []string{"GET " + nightly, "POST " + nightly + "/trigger", "POST " + nightly + "/pause", "GET " + nightly + "/next", "GET " + nightly + "/firings"} {
		method, path, _ := strings.Cut(path, " ")
		a.refused(method, path, "", http.StatusNotFound, "schedule_not_found")
	}
}

func TestAListOfSchedulesHasEachOnce(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.scheduler()
	a := serve(r, s)
	var page List
	a.do("GET", "/admin/v1/schedules", "", &page)
	if page.Schedules == nil || len(page.Schedules) != 0 {
		t.Errorf("a list of none is %+v", page)
	}
	for _, id := range []string{"c", "a", "b-1", "b.1"} {
		must[Record](t)(s.Create(t.Context(), hourly(id)))
	}
	var ids []string
	for cursor := ""; ; cursor = page.Next {
		page = List{}
		a.do("GET", "/admin/v1/schedules?limit=3&cursor="+cursor, "", &page)
		for _, record := range page.Schedules {
			ids = append(ids, record.ID)
		}
		if page.Next == "" {
			break
		}
	}
	if strings.Join(ids, " ") != "a b-1 b.1 c" {
		t.Errorf("listed %v", ids)
	}
	a.refused("GET", "/admin/v1/schedules?limit=501", "", http.StatusBadRequest, "invalid_limit")
	a.refused("GET", "/admin/v1/schedules?cursor=%00", "", http.StatusBadRequest, "invalid_cursor")
	a.refused("GET", "/admin/v1/schedules/%00", "", http.StatusNotFound, "schedule_not_found")
	a.refused("DELETE", "/admin/v1/schedules/%00", "", http.StatusNotFound, "schedule_not_found", "If-Match: *")
}

func TestADatabaseThatIsAwayIsAProblem(t *testing.T) {
	t.Parallel()
	r := setup(t)
	s := r.scheduler()
	a := serve(r, s)
	r.exec("alter table schedule rename to elsewhere")
	a.refused("GET", "/admin/v1/schedules/x", "", http.StatusServiceUnavailable, "store_unavailable")
}

// The contract names every operation that there is, and no other.
func TestTheDocumentNamesEveryOperation(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	Register(mux, nil, nil, slog.New(slog.DiscardHandler))
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/admin/schedules/openapi.json", nil))
	var document struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal(recorder.Body.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	named := 0
	for path, operations := range document.Paths {
		for method := range operations {
			if method == "parameters" {
				continue
			}
			named++
			want := strings.ToUpper(method) + " " + path
			request := httptest.NewRequestWithContext(t.Context(), strings.ToUpper(method), strings.Replace(path, "{id}", "x", 1), nil)
			if _, pattern := mux.Handler(request); pattern != want {
				t.Errorf("%s is answered by %q", want, pattern)
			}
		}
	}
	if want := len((api{}).routes()); named != want {
		t.Errorf("the document names %d operations of %d", named, want)
	}
}

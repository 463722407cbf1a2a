package webhook_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/webhook"
)

// nothing stands in for what a gateway with no routes does not use.
type nothing struct{ gateway.Operations }

func (nothing) Publish(context.Context, broker.Message) (broker.Receipt, error) {
	return broker.Receipt{}, broker.ErrUnavailable
}

func (nothing) PublishTogether(_ context.Context, all []broker.Message) []broker.Receipt {
	return make([]broker.Receipt, len(all))
}

func (nothing) Lookup(context.Context, events.Topic, int, uint64) (broker.Delivery, error) {
	return broker.Delivery{}, broker.ErrNotFound
}

// client speaks to a gateway in front of the rig's store.
type client struct {
	t       testing.TB
	handler http.Handler
	as      gateway.Identity
}

func (r *rig) client(anonymous bool, as gateway.Identity) *client {
	r.t.Helper()
	table, err := gateway.ParseTable("routes.yaml", []byte("version: 1\nroutes: []\n"), gateway.Contracts{}, os.LookupEnv)
	if err != nil {
		r.t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{Secret: []byte("at least sixteen bytes")}, table, gateway.Deps{
		Publisher: nothing{}, Operations: nothing{}, Lookup: nothing{}.Lookup, Resources: r.store.Resources(anonymous), Described: [][]byte{webhook.OpenAPI()},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return &client{r.t, g, as}
}

// call makes a request. Headers are given as "Name: value".
func (c *client) call(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	c.t.Helper()
	q := httptest.NewRequestWithContext(gateway.WithIdentity(c.t.Context(), c.as), method, path, strings.NewReader(body))
	if body != "" {
		q.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		q.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, q)
	return w
}

func decode[T any](t *testing.T, w *httptest.ResponseRecorder) (v T) {
	t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	return v
}

func TestTheSubscriptionsAPI(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, nil)
	r.send()
	c := r.client(false, gateway.Identity{Tenant: "acme", Client: "app"})

	w := c.call("POST", "/v1/subscriptions", fmt.Sprintf(`{"protocol":"HTTP","sink":%q,"types":[%q],"config":{"order":"key"},
		"filters":[{"exact":{"source":"/shop"}}],"sinkcredential":{"credentialtype":"ACCESSTOKEN","accesstoken":"t0ken"}}`, sink.URL, placed.Type()))
	if w.Code != http.StatusCreated {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	s := decode[webhook.Subscription](t, w)
	path := "/v1/subscriptions/" + s.ID
	if w.Header().Get("Location") != path || w.Header().Get("ETag") != `"1"` || s.State != webhook.Pending || s.Client != "app" ||
		len(s.Signing) != 1 || !strings.HasPrefix(s.Signing[0].Secret, "whsec_") || strings.Contains(w.Body.String(), "t0ken") {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
	r.untilState(s.ID, webhook.Active)

	w = c.call("GET", path, "")
	if w.Code != http.StatusOK || strings.Contains(w.Body.String(), "whsec_") || strings.Contains(w.Body.String(), "t0ken") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	etag := w.Header().Get("ETag")
	// What was read can be written back, with what only this side sets.
	if back := c.call("PUT", path, w.Body.String(), "If-Match: "+etag); back.Code != http.StatusOK || back.Header().Get("ETag") == etag {
		t.Errorf("%d %s", back.Code, back.Body)
	}
	if back := c.call("PUT", path, w.Body.String(), "If-Match: "+etag); back.Code != http.StatusPreconditionFailed {
		t.Errorf("%d %s", back.Code, back.Body)
	}
	if w = c.call("HEAD", path, ""); w.Code != http.StatusOK {
		t.Errorf("HEAD: %d", w.Code)
	}
	if list := decode[[]webhook.Subscription](t, c.call("GET", "/v1/subscriptions?state=active", "")); len(list) != 1 || list[0].ID != s.ID {
		t.Errorf("list %+v", list)
	}

	d := decode[webhook.Delivery](t, c.call("POST", path+"/test", ""))
	r.untilEnded(s.ID, 1, webhook.DeliveryDelivered)
	if log := decode[webhook.DeliveryList](t, c.call("GET", path+"/deliveries?state=delivered&type="+webhook.TestType, "")); len(log.Deliveries) != 1 || log.Deliveries[0].ID != d.ID {
		t.Errorf("log %+v", log)
	}
	if got := decode[webhook.Delivery](t, c.call("GET", path+"/deliveries/"+d.ID, "")); len(got.Log) != 1 || got.Log[0].Status != http.StatusOK {
		t.Errorf("delivery %+v", got)
	}
	if again := decode[webhook.Redelivered](t, c.call("POST", path+"/redeliver", `{"delivery":"`+d.ID+`"}`)); again.Redelivered != 1 {
		t.Errorf("redelivered %+v", again)
	}
	if ids := sink.untilGot(t, 2); ids[0].header.Get("Webhook-Id") != ids[1].header.Get("Webhook-Id") {
		t.Error("it was redelivered with another id")
	}
	if paused := decode[webhook.Subscription](t, c.call("POST", path+"/pause", `{"reason":"later"}`)); paused.State != webhook.Paused || paused.StateReason != "later" {
		t.Errorf("paused %+v", paused)
	}
	if resumed := decode[webhook.Subscription](t, c.call("POST", path+"/resume", "")); resumed.State != webhook.Active {
		t.Errorf("resumed %+v", resumed)
	}
	if rotated := decode[webhook.Subscription](t, c.call("POST", path+"/secrets", `{"overlap_seconds":60}`)); len(rotated.Signing) != 2 || rotated.Signing[0].Secret == "" {
		t.Errorf("rotated %+v", rotated)
	}
	if w = c.call("OPTIONS", "/v1/subscriptions", ""); w.Code != http.StatusNoContent || !strings.Contains(w.Header().Get("Allow"), "POST") {
		t.Errorf("OPTIONS: %d %v", w.Code, w.Header())
	}
	if w = c.call("DELETE", path, ""); w.Code != http.StatusNoContent {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w = c.call("GET", path, ""); w.Code != http.StatusNotFound {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	r := setup(t, func(c *webhook.Config) { c.TenantMax = 1 })
	mine := r.client(false, gateway.Identity{Tenant: "acme", Client: "app"})
	theirs := r.client(false, gateway.Identity{Tenant: "other", Client: "app"})
	nobody := r.client(false, gateway.Identity{})
	const good = `{"protocol":"HTTP","sink":"http://127.0.0.1:9/"}`
	s := decode[webhook.Subscription](t, mine.call("POST", "/v1/subscriptions", good))
	path := "/v1/subscriptions/" + s.ID
	for name, c := range map[string]struct {
		client             *client
		method, path, body string
		header             string
		status             int
		code               string
	}{
		"no identity":              {nobody, "GET", "/v1/subscriptions", "", "", 401, "credential_required"},
		"no identity, create":      {nobody, "POST", "/v1/subscriptions", good, "", 401, "credential_required"},
		"another tenant's":         {theirs, "GET", path, "", "", 404, "subscription_not_found"},
		"another tenant's, delete": {theirs, "DELETE", path, "", "", 404, "subscription_not_found"},
		"one too many":             {mine, "POST", "/v1/subscriptions", good, "", 403, "too_many_subscriptions"},
		"an unknown field":         {theirs, "POST", "/v1/subscriptions", `{"protocol":"HTTP","sink":"http://127.0.0.1:9/","sinc":1}`, "", 422, "invalid_subscription"},
		"a field of another type":  {theirs, "POST", "/v1/subscriptions", `{"protocol":"HTTP","sink":1}`, "", 422, "invalid_subscription"},
		"a field that comes twice": {theirs, "POST", "/v1/subscriptions", `{"protocol":"HTTP","sink":"http://127.0.0.1:9/","sink":"http://127.0.0.1:8/"}`, "", 400, "malformed_json"},
		"something behind it":      {theirs, "POST", "/v1/subscriptions", good + "{}", "", 400, "malformed_json"},
		"no JSON":                  {theirs, "POST", "/v1/subscriptions", "sink", "", 400, "malformed_json"},
		"another media type":       {theirs, "POST", "/v1/subscriptions", good, "Content-Type: text/plain", 415, "unsupported_media_type"},
		"too large":                {theirs, "POST", "/v1/subscriptions", `{"sink":"` + strings.Repeat("a", 65<<10) + `"}`, "", 413, "body_too_large"},
		"an inner sink":            {theirs, "POST", "/v1/subscriptions", `{"protocol":"HTTP","sink":"http://10.1.2.3/"}`, "", 422, "invalid_subscription"},
		"another id in the body":   {mine, "PUT", path, `{"id":"x","protocol":"HTTP","sink":"http://127.0.0.1:9/"}`, "", 422, "invalid_subscription"},
		"an ETag of nobody's":      {mine, "DELETE", path, "", "If-Match: \"99\"", 412, "revision_moved"},
		"an ETag that is none":     {mine, "DELETE", path, "", "If-Match: W/abc", 412, "revision_moved"},
		"a state that is none":     {mine, "GET", "/v1/subscriptions?state=lost", "", "", 400, "query_invalid"},
		"a limit too large":        {mine, "GET", "/v1/subscriptions?limit=1000", "", "", 400, "query_invalid"},
		"a cursor of nobody's":     {mine, "GET", "/v1/subscriptions?cursor=x", "", "", 400, "query_invalid"},
		"U+0000 in a body":         {theirs, "POST", "/v1/subscriptions", `{"protocol":"HTTP","sink":"http://127.0.0.1:9/","source":"a\\\u0000"}`, "", 400, "malformed_json"},
		"U+0000 in a reason":       {mine, "POST", path + "/pause", `{"reason":"\u0000"}`, "", 400, "malformed_json"},
		"U+0000 in a query":        {mine, "GET", path + "/deliveries?type=%00", "", "", 400, "query_invalid"},
		"no text in a query":       {mine, "GET", path + "/deliveries?type=%ff", "", "", 400, "query_invalid"},
		"U+0000 that is none":      {theirs, "POST", "/v1/subscriptions", `{"protocol":"HTTP","sink":"no\\u0000 URL"}`, "", 422, "invalid_subscription"},
		"pause while pending":      {mine, "POST", path + "/pause", "", "", 409, "subscription_state"},
		"redeliver while pending":  {mine, "POST", path + "/redeliver", "", "", 409, "subscription_state"},
		"no such delivery":         {mine, "GET", path + "/deliveries/" + s.ID, "", "", 404, "subscription_not_found"},
		"no such callback":         {nobody, "GET", webhook.CallbackPath + "abc", "", "", 404, "not_found"},
		"another method":           {mine, "PATCH", path, "", "", 405, "method_not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var headers []string
			if c.header != "" {
				headers = append(headers, c.header)
			}
			w := c.client.call(c.method, c.path, c.body, headers...)
			p := decode[gateway.Problem](t, w)
			if w.Code != c.status || p.Code != c.code || p.Type != "urn:countermand:problem:"+c.code || p.Instance == "" || p.Title == "" {
				t.Errorf("%d %s; want %d %s", w.Code, w.Body, c.status, c.code)
			}
			if w.Code == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
				t.Error("it does not say which credentials are taken")
			}
		})
	}
}

func TestWithoutAnIdentityEverybodyIsOneTenantWhereThatIsWanted(t *testing.T) {
	t.Parallel()
	r := setup(t)
	c := r.client(true, gateway.Identity{})
	if w := c.call("POST", "/v1/subscriptions", `{"protocol":"HTTP","sink":"http://127.0.0.1:9/"}`); w.Code != http.StatusCreated {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestTheOperatorsAPI(t *testing.T) {
	t.Parallel()
	r := setup(t)
	sink := receive(t, status(400))
	sink.options = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) }
	r.send()
	s := r.subscribe(sink.URL, func(s *webhook.Subscription) { s.Tenant = "acme" })
	mux := http.NewServeMux()
	protected := 0
	r.store.Register(mux, func(h http.Handler) http.Handler { protected++; return h })
	if protected != 10 {
		t.Errorf("%d handlers are protected", protected)
	}
	c := &client{t, mux, gateway.Identity{}}
	path := "/admin/v1/webhooks/" + s.ID
	if approved := decode[webhook.Subscription](t, c.call("POST", path+"/approve", "")); approved.State != webhook.Active {
		t.Errorf("approved %+v", approved)
	}
	if list := decode[webhook.List](t, c.call("GET", "/admin/v1/webhooks", "")); len(list.Webhooks) != 1 || list.Webhooks[0].Tenant != "acme" {
		t.Errorf("list %+v", list)
	}
	d := decode[webhook.Delivery](t, c.call("POST", path+"/test", ""))
	r.untilEnded(s.ID, 1, webhook.DeliveryDead)
	if log := decode[webhook.DeliveryList](t, c.call("GET", path+"/deliveries?state=dead", "")); len(log.Deliveries) != 1 || log.Deliveries[0].ID != d.ID {
		t.Errorf("log %+v", log)
	}
	if again := decode[webhook.Redelivered](t, c.call("POST", path+"/redeliver", "")); again.Redelivered != 1 {
		t.Errorf("redelivered %+v", again)
	}
	sink.untilGot(t, 2)
	if w := c.call("POST", path+"/approve", ""); w.Code != http.StatusConflict {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := c.call("DELETE", path, ""); w.Code != http.StatusNoContent {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

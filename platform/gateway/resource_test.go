package gateway_test

import (
	"net/http"
	"testing"

	"github.com/countermand/countermand/platform/gateway"
)

func TestScopesOfSubscriptions(t *testing.T) {
	t.Parallel()
	for name, auth := range map[string]string{
		"asked for by default":   `{default: key, subscriptions: {read: ["orders:write"], write: [admin]}}`,
		"asked for by one route": `{default: none, subscriptions: {read: ["orders:write"], write: [admin]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			serve := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
			b := setup(t, func(_ *gateway.Config, d *gateway.Deps) {
				d.Keys = keysOf
				d.Resources = []gateway.Resource{
					{ID: "subscriptions", Methods: []string{http.MethodGet, http.MethodPost}, Path: "/v1/subscriptions", Handler: serve},
					{ID: "subscriptions", Methods: []string{http.MethodOptions}, Path: "/v1/subscriptions", Handler: serve, Open: true},
				}
			})
			const routes = "\nroutes:\n  - {id: place, kind: command, match: POST /v1/orders, command: shop.checkout.request.v1, auth: key}\n"
			table, err := gateway.ParseTable("routes.yaml", []byte("version: 1\nauth: "+auth+routes), contracts(t), lookupIn(nil))
			if err != nil {
				t.Fatal(err)
			}
			if err := b.gateway.SetTable(table); err != nil {
				t.Fatal(err)
			}
			for _, one := range []struct {
				method, key string
				status      int
				code        string
			}{
				{http.MethodGet, "key-of-shop", http.StatusOK, ""},
				{http.MethodHead, "key-of-shop", http.StatusOK, ""},
				{http.MethodGet, "key-of-reader", http.StatusForbidden, "scope_missing"},
				{http.MethodPost, "key-of-shop", http.StatusForbidden, "scope_missing"},
				{http.MethodGet, "", http.StatusUnauthorized, "credential_required"},
				{http.MethodOptions, "", http.StatusOK, ""},
			} {
				var headers []string
				if one.key != "" {
					headers = []string{"X-Api-Key: " + one.key}
				}
				w := b.do(one.method, "/v1/subscriptions", "", headers...)
				if one.code == "" {
					wantStatus(t, w, one.status)
				} else {
					wantProblem(t, w, one.status, one.code)
				}
			}
		})
	}
}

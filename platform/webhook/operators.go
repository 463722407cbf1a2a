package webhook

import (
	"net/http"

	"github.com/countermand/countermand/platform/answer"
)

// List is the body of a list of subscriptions for operators.
type List struct {
	Webhooks []Subscription `json:"webhooks"`
	// Next continues the list as ?cursor=; absent on the last page.
	Next string `json:"next,omitempty"`
}

// Register adds the operators' HTTP API to mux, with protect around each handler. It
// belongs on the admin listener: it asks for no credential, and serves every tenant.
//
//	GET    /admin/v1/webhooks                            list; ?state= &cursor= &limit=
//	GET    /admin/v1/webhooks/{id}                       one
//	DELETE /admin/v1/webhooks/{id}
//	POST   /admin/v1/webhooks/{id}/pause                 {"reason": ""}
//	POST   /admin/v1/webhooks/{id}/resume
//	POST   /admin/v1/webhooks/{id}/approve               in place of its sink
//	POST   /admin/v1/webhooks/{id}/test
//	GET    /admin/v1/webhooks/{id}/deliveries            ?state= &type= &created_after= &created_before= &cursor= &limit=
//	GET    /admin/v1/webhooks/{id}/deliveries/{delivery} with its attempts
//	POST   /admin/v1/webhooks/{id}/redeliver             {"delivery": ""} or {"state": "dead", "type": "", …}
func (s *Store) Register(mux *http.ServeMux, protect func(http.Handler) http.Handler) {
	a := api{store: s, scope: func(*http.Request) (Scope, error) { return Scope{Everyone: true}, nil }}
	const item = "/admin/v1/webhooks/{id}"
	for pattern, serve := range map[string]func(http.ResponseWriter, *http.Request, Scope) error{
		"GET /admin/v1/webhooks":                 a.list,
		"GET " + item:                            a.get,
		"DELETE " + item:                         a.delete,
		"POST " + item + "/pause":                a.pause,
		"POST " + item + "/resume":               a.resume,
		"POST " + item + "/approve":              a.approve,
		"POST " + item + "/test":                 a.test,
		"GET " + item + "/deliveries":            a.deliveries,
		"GET " + item + "/deliveries/{delivery}": a.delivery,
		"POST " + item + "/redeliver":            a.redeliver,
	} {
		mux.Handle(pattern, protect(a.handle(serve)))
	}
}

func (a api) list(w http.ResponseWriter, r *http.Request, scope Scope) error {
	page, err := a.page(r, scope)
	if err != nil {
		return err
	}
	next(w, r, page.Next)
	return answer.JSON(w, http.StatusOK, List{page.Subscriptions, page.Next})
}

func (a api) approve(w http.ResponseWriter, r *http.Request, scope Scope) error {
	s, err := a.store.Approve(r.Context(), scope, r.PathValue("id"))
	return one(w, http.StatusOK, s, err)
}

package webhook

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/countermand/countermand/platform/answer"
	"github.com/countermand/countermand/platform/gateway"
)

const basePath = "/v1/subscriptions"

// Resources are the CloudEvents Subscriptions API for a gateway, and what this API adds:
//
//	GET|POST       /v1/subscriptions                            list, create
//	GET|PUT|DELETE /v1/subscriptions/{id}                       one
//	POST           /v1/subscriptions/{id}/pause|resume          keep events, and send them
//	POST           /v1/subscriptions/{id}/secrets               a fresh signing secret
//	POST           /v1/subscriptions/{id}/test                  send a test event
//	GET            /v1/subscriptions/{id}/deliveries            the log, newest first
//	GET            /v1/subscriptions/{id}/deliveries/{delivery} one, with its attempts
//	POST           /v1/subscriptions/{id}/redeliver             send again
//	GET|POST       /v1/webhook-grants/{token}                   for sinks: they agree
//
// They serve the tenant of the sender. A sender without an identity is refused, unless
// anonymous says that the gateway is nobody else's to reach.
func (s *Store) Resources(anonymous bool) []gateway.Resource {
	a := subscribers{api{store: s, scope: func(r *http.Request) (Scope, error) {
		identity := gateway.IdentityOf(r.Context())
		if identity.Client == "" && identity.Tenant == "" && !anonymous {
			return Scope{}, refusal{
				http.StatusUnauthorized, "credential_required", "A credential is required",
				"Subscriptions belong to somebody. Send a credential; the route table says which are taken.", nil,
			}
		}
		return Scope{Tenant: identity.Tenant}, nil
	}}}
	resource := func(id, methods, path string, serve func(http.ResponseWriter, *http.Request, Scope) error) gateway.Resource {
		return gateway.Resource{ID: id, Methods: strings.Fields(methods), Path: path, Handler: a.handle(serve)}
	}
	features := func(path, methods string) gateway.Resource {
		return gateway.Resource{
			ID: "subscriptions", Methods: []string{http.MethodOptions}, Path: path, Open: true,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Allow", methods)
				w.WriteHeader(http.StatusNoContent)
			}),
		}
	}
	const item = basePath + "/{id}"
	return []gateway.Resource{
		resource("subscriptions", "GET", basePath, a.list),
		resource("subscriptions", "POST", basePath, a.create),
		features(basePath, "GET, HEAD, POST, OPTIONS"),
		resource("subscription", "GET", item, a.get),
		resource("subscription", "PUT", item, a.put),
		resource("subscription", "DELETE", item, a.delete),
		features(item, "GET, HEAD, PUT, DELETE, OPTIONS"),
		resource("subscription-orders", "POST", item+"/pause", a.pause),
		resource("subscription-orders", "POST", item+"/resume", a.resume),
		resource("subscription-orders", "POST", item+"/secrets", a.rotate),
		resource("subscription-orders", "POST", item+"/test", a.test),
		resource("subscription-orders", "POST", item+"/redeliver", a.redeliver),
		resource("subscription-deliveries", "GET", item+"/deliveries", a.deliveries),
		resource("subscription-deliveries", "GET", item+"/deliveries/{delivery}", a.delivery),
		{
			ID: "webhook-grants", Methods: []string{http.MethodGet, http.MethodPost}, Path: CallbackPath + "{token}", Open: true,
			Handler: http.HandlerFunc(a.grant),
		},
	}
}

// subscribers is the API as subscribers see it.
type subscribers struct{ api }

func (a subscribers) list(w http.ResponseWriter, r *http.Request, scope Scope) error {
	page, err := a.page(r, scope)
	if err != nil {
		return err
	}
	next(w, r, page.Next)
	return answer.JSON(w, http.StatusOK, page.Subscriptions) // an array, as the specification wants it
}

func (a subscribers) create(w http.ResponseWriter, r *http.Request, _ Scope) error {
	key, fault := gateway.IdempotencyKey(r)
	if fault != "" {
		return refusal{http.StatusBadRequest, "idempotency_key_invalid", "The Idempotency-Key is not valid", fault, nil}
	}
	var s Subscription
	raw, err := rawBody(w, r, &s, false)
	if err != nil {
		return err
	}
	identity := gateway.IdentityOf(r.Context())
	created, repeated, err := a.store.CreateOnce(r.Context(), identity.Tenant, identity.Client, Request{key, raw}, s)
	if err == nil {
		w.Header().Set("Location", basePath+"/"+created.ID)
	}
	if repeated {
		w.Header().Set("Idempotency-Replayed", "true")
	}
	return one(w, http.StatusCreated, created, err)
}

func (a subscribers) put(w http.ResponseWriter, r *http.Request, scope Scope) error {
	var s Subscription
	if err := body(w, r, &s, false); err != nil {
		return err
	}
	id := r.PathValue("id")
	if s.ID != "" && s.ID != id {
		return InvalidError{{"/id", "is not that of the path"}}
	}
	s.ID = id
	revision, err := ifMatch(r)
	if err != nil {
		return err
	}
	replaced, err := a.store.Replace(r.Context(), scope, s, revision)
	return one(w, http.StatusOK, replaced, err)
}

func (a subscribers) rotate(w http.ResponseWriter, r *http.Request, scope Scope) error {
	var order struct {
		// OverlapSeconds is for how long the secret before signs as well; a day by
		// default, 0 ends it at once.
		OverlapSeconds *float64 `json:"overlap_seconds"`
	}
	if err := body(w, r, &order, true); err != nil {
		return err
	}
	var overlap time.Duration
	if order.OverlapSeconds != nil {
		switch seconds := *order.OverlapSeconds; {
		case seconds < 0 || seconds > secretOverlapIn.Seconds():
			return InvalidError{{"/overlap_seconds", "want a number from 0 to 2592000"}}
		case seconds == 0:
			overlap = -1
		default:
			overlap = time.Duration(seconds * float64(time.Second))
		}
	}
	s, err := a.store.Rotate(r.Context(), scope, r.PathValue("id"), overlap)
	return one(w, http.StatusOK, s, err)
}

// grant is the callback of a sink. It tells nothing about what it is for.
func (a subscribers) grant(w http.ResponseWriter, r *http.Request) {
	rate, err := parseRate(r.Header.Get("WebHook-Allowed-Rate"))
	if err != nil {
		a.fail(w, r, refusal{http.StatusBadRequest, "query_invalid", "The rate is not valid", sentence(err.Error()), nil})
		return
	}
	perMinute := 0
	if rate != nil {
		perMinute = *rate
	}
	err = a.store.Grant(r.Context(), r.PathValue("token"), perMinute)
	if errors.Is(err, ErrNotFound) {
		err = refusal{http.StatusNotFound, "not_found", "Nothing is here", "The address was used already, or a later one has taken its place.", nil}
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

package admin

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/countermand/countermand/platform/apikey"
	"github.com/countermand/countermand/platform/postgres"
)

// Keys is the body of a list of API keys.
type Keys struct {
	Keys []apikey.Key `json:"keys"`
}

// KeyRequest is the body that asks for an API key. Tenant, client, by and reason are
// required.
type KeyRequest struct {
	Tenant string   `json:"tenant"`
	Client string   `json:"client"`
	Scopes []string `json:"scopes,omitempty"`
	// Note is kept with the key.
	Note      string     `json:"note,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	By        string     `json:"by"`
	Reason    string     `json:"reason"`
}

// KeyOrder is the body of an order about an API key; by and reason are required.
type KeyOrder struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
	// OverlapSeconds is for how long a key that is rotated stays in force; a day by
	// default.
	OverlapSeconds *float64 `json:"overlap_seconds,omitempty"`
}

// MadeKey is the answer to a request for a key. Secret is told this once.
type MadeKey struct {
	Key    apikey.Key `json:"key"`
	Secret string     `json:"secret"`
}

const (
	overlapDefault = 24 * time.Hour
	overlapMax     = 90 * 24 * time.Hour
)

// RegisterKeys adds the API keys of clients to mux:
//
//	GET  /admin/v1/keys              those in force, by tenant and client
//	POST /admin/v1/keys              makes one
//	GET  /admin/v1/keys/{id}         one
//	POST /admin/v1/keys/{id}:rotate  makes another one that takes its place
//	POST /admin/v1/keys/{id}:revoke  ends it
func RegisterKeys(mux *http.ServeMux, store *apikey.Store, logger *slog.Logger) {
	a := &keysAPI{api{logger: logger}, store}
	handle := func(pattern string, handler http.HandlerFunc) { mux.Handle(pattern, Protect(handler)) }
	handle("GET /admin/v1/keys", a.list)
	handle("POST /admin/v1/keys", a.create)
	handle("GET /admin/v1/keys/{id}", a.get)
	handle("POST /admin/v1/keys/{target}", a.order)
}

type keysAPI struct {
	api
	store *apikey.Store
}

// keyStatuses are those of the codes of what is refused.
var keyStatuses = map[string]int{
	"invalid_key":   http.StatusUnprocessableEntity,
	"too_many_keys": http.StatusConflict,
	"key_ended":     http.StatusConflict,
	"key_not_found": http.StatusNotFound,
}

func (a *keysAPI) fail(w http.ResponseWriter, r *http.Request, err error) {
	if refused, ok := errors.AsType[*apikey.RefusalError](err); ok {
		refuse(w, r, keyStatuses[refused.Code], refused.Code, refused.Message)
		return
	}
	if r.Context().Err() == nil {
		a.logger.ErrorContext(r.Context(), "admin request failed", "path", r.URL.Path, "error", err)
	}
	if errors.Is(err, postgres.ErrCommitUnknown) {
		refuse(w, r, http.StatusServiceUnavailable, "outcome_unknown", "the database was lost while it was asked: list the keys before asking again")
		return
	}
	refuse(w, r, http.StatusServiceUnavailable, "store_unavailable", "the gateway's database did not answer; see the log")
}

func (a *keysAPI) list(w http.ResponseWriter, r *http.Request) {
	var filter apikey.Filter
	query := r.URL.Query()
	for _, name := range sortedNames(query) {
		value := query.Get(name)
		switch name {
		case "tenant":
			filter.Tenant = value
		case "client":
			filter.Client = value
		case "ended":
			var err error
			if filter.Ended, err = strconv.ParseBool(value); err != nil {
				refuse(w, r, http.StatusBadRequest, "invalid_ended", "ended must be true or false")
				return
			}
		default:
			refuse(w, r, http.StatusBadRequest, "unknown_parameter", fmt.Sprintf("there is no parameter %q", name))
			return
		}
	}
	keys, err := a.store.List(r.Context(), filter)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if keys == nil {
		keys = []apikey.Key{}
	}
	writeJSON(w, Keys{keys})
}

func (a *keysAPI) get(w http.ResponseWriter, r *http.Request) {
	key, err := a.store.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeJSON(w, key)
}

func (a *keysAPI) create(w http.ResponseWriter, r *http.Request) {
	var body KeyRequest
	if !a.read(w, r, &body) || !a.signed(w, r, body.By, body.Reason) {
		return
	}
	key, secret, err := a.store.Create(r.Context(), apikey.NewKey{
		Tenant: body.Tenant, Client: body.Client, Scopes: body.Scopes, Note: body.Note, ExpiresAt: body.ExpiresAt, By: body.By,
	})
	a.made(w, r, "API key created", MadeKey{key, secret}, body.Reason, err)
}

// made answers with a key that was made, or why it was not.
func (a *keysAPI) made(w http.ResponseWriter, r *http.Request, what string, made MadeKey, reason string, err error) {
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.audit(r, what, &made.Key, made.Key.CreatedBy, reason)
	w.Header().Set("Location", "/admin/v1/keys/"+made.Key.ID)
	write(w, http.StatusCreated, "application/json", made)
}

func (a *keysAPI) audit(r *http.Request, what string, key *apikey.Key, by, reason string) {
	a.logger.InfoContext(r.Context(), what, //nolint:sloglint // one of three constant messages
		"key", key.ID, "tenant", key.Tenant, "client", key.Client, "by", by, "reason", reason)
}

// order gives an order about the key that the path names before the colon.
func (a *keysAPI) order(w http.ResponseWriter, r *http.Request) {
	id, verb, _ := strings.Cut(r.PathValue("target"), ":")
	if verb != "rotate" && verb != "revoke" {
		refuse(w, r, http.StatusNotFound, "verb_not_found", "post to /admin/v1/keys/{id}:VERB, where VERB is rotate or revoke")
		return
	}
	var body KeyOrder
	if !a.read(w, r, &body) || !a.signed(w, r, body.By, body.Reason) {
		return
	}
	if verb == "revoke" {
		key, err := a.store.Revoke(r.Context(), id, body.By, body.Reason)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		a.audit(r, "API key revoked", &key, body.By, body.Reason)
		writeJSON(w, key)
		return
	}
	overlap := overlapDefault
	if s := body.OverlapSeconds; s != nil {
		if !(*s >= 0 && *s <= overlapMax.Seconds()) {
			refuse(w, r, http.StatusUnprocessableEntity, "invalid_key", fmt.Sprintf("overlap_seconds: want a number from 0 to %g", overlapMax.Seconds()))
			return
		}
		overlap = time.Duration(*s * float64(time.Second))
	}
	key, secret, err := a.store.Rotate(r.Context(), id, overlap, body.By)
	a.made(w, r, "API key rotated", MadeKey{key, secret}, body.Reason, err)
}

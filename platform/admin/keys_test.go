package admin_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/apikey"
)

// key returns the id of a key, which is made when there is none.
func (o *office) key() string {
	o.t.Helper()
	a := o.do(http.MethodGet, "/admin/v1/keys?tenant=acme&client=contract", "")
	if all := decode[admin.Keys](o, a).Keys; len(all) > 0 {
		return all[0].ID
	}
	return o.made(o.do(http.MethodPost, "/admin/v1/keys", `{"tenant":"acme","client":"contract",`+signature+`}`)).Key.ID
}

func (o *office) made(a answer) (made admin.MadeKey) {
	o.t.Helper()
	if err := json.Unmarshal([]byte(a.body), &made); err != nil || a.status != http.StatusCreated || a.header.Get("Location") != "/admin/v1/keys/"+made.Key.ID {
		o.t.Fatalf("answered %d %s %v", a.status, a.body, err)
	}
	return made
}

func TestKeys(t *testing.T) {
	o := newOffice(t)
	const path = "/admin/v1/keys"
	first := o.made(o.do(http.MethodPost, path, `{"tenant":"acme","client":"shop","scopes":["orders:write"],"note":"till","expires_at":"2999-01-01T00:00:00Z",`+signature+`}`))
	if !apikey.Looks(first.Secret) || first.Key.CreatedBy != "ada" || first.Key.Note != "till" || first.Key.ExpiresAt.Year() != 2999 {
		t.Errorf("made %+v", first)
	}
	second := o.made(o.do(http.MethodPost, path+"/"+first.Key.ID+":rotate", plain))
	old := decode[apikey.Key](o, o.do(http.MethodGet, path+"/"+first.Key.ID, ""))
	if old.ReplacedBy != second.Key.ID || time.Until(*old.ExpiresAt).Round(time.Hour) != 24*time.Hour || second.Key.Scopes[0] != "orders:write" {
		t.Errorf("rotated %+v to %+v", old, second.Key)
	}
	o.problem(o.do(http.MethodPost, path, `{"tenant":"acme","client":"shop",`+signature+`}`), http.StatusConflict, "too_many_keys")
	revoked := decode[apikey.Key](o, o.do(http.MethodPost, path+"/"+first.Key.ID+":revoke", plain))
	if revoked.RevokedAt == nil || revoked.RevokedBy != "ada" || revoked.Reason != "a test" {
		t.Errorf("revoked %+v", revoked)
	}
	o.problem(o.do(http.MethodPost, path+"/"+first.Key.ID+":rotate", plain), http.StatusConflict, "key_ended")
	third := o.made(o.do(http.MethodPost, path+"/"+second.Key.ID+":rotate", `{"overlap_seconds":0,`+signature+`}`))
	listed := o.do(http.MethodGet, path+"?tenant=acme", "")
	if all := decode[admin.Keys](o, listed).Keys; len(all) != 1 || all[0].ID != third.Key.ID {
		t.Errorf("in force: %+v", all)
	}
	all := o.do(http.MethodGet, path+"?ended=true", "")
	if keys := decode[admin.Keys](o, all).Keys; len(keys) != 3 {
		t.Errorf("%d keys in all", len(keys))
	}
	for _, made := range []admin.MadeKey{first, second, third} {
		if strings.Contains(all.body, made.Secret[15:]) {
			t.Error("a secret is told twice")
		}
	}
	if empty := o.do(http.MethodGet, path+"?client=nobody", ""); strings.TrimSpace(empty.body) != `{"keys":[]}` {
		t.Errorf("no keys are %s", empty.body)
	}
	o.problem(o.do(http.MethodGet, path+"?x=1", ""), http.StatusBadRequest, "unknown_parameter")
	o.problem(o.do(http.MethodGet, path+"?ended=perhaps", ""), http.StatusBadRequest, "invalid_ended")
	o.problem(o.do(http.MethodGet, path+"/nobody", ""), http.StatusNotFound, "key_not_found")
	o.problem(o.do(http.MethodPost, path+"/nobody:revoke", plain), http.StatusNotFound, "key_not_found")
	o.problem(o.do(http.MethodPost, path+"/"+third.Key.ID+":burn", plain), http.StatusNotFound, "verb_not_found")
	o.problem(o.do(http.MethodPost, path+"/"+third.Key.ID+":rotate", `{"overlap_seconds":-1,`+signature+`}`), http.StatusUnprocessableEntity, "invalid_key")
	o.problem(o.do(http.MethodPost, path, `{"tenant":"a/b","client":"shop",`+signature+`}`), http.StatusUnprocessableEntity, "invalid_key")
	o.problem(o.do(http.MethodPost, path, `{"tenant":"acme","client":"shop"}`), http.StatusUnprocessableEntity, "reason_required")
	o.pool.Close()
	o.problem(o.do(http.MethodGet, path, ""), http.StatusServiceUnavailable, "store_unavailable")
}

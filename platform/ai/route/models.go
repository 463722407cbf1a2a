package route

import (
	"encoding/json"
	"net/http"

	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/gateway"
)

func (h *Handler) models(w http.ResponseWriter, r *http.Request) {
	f := formatOf(r)
	list := []any{}
	for _, m := range h.router.Models(CallerOf(gateway.IdentityOf(r.Context())).Tenant) {
		list = append(list, f.model(m))
	}
	answer(w, f.modelList(list))
}

func (h *Handler) model(w http.ResponseWriter, r *http.Request) {
	f, name := formatOf(r), r.PathValue("model")
	for _, m := range h.router.Models(CallerOf(gateway.IdentityOf(r.Context())).Tenant) {
		if m.Name == name {
			answer(w, f.model(m))
			return
		}
	}
	f.fail(w, &wire.Error{Status: http.StatusNotFound, Code: "model_not_found", Param: "model", Message: "There is no such model here, or it is not for you."})
}

func answer(w http.ResponseWriter, document any) {
	data, err := json.Marshal(document)
	if err != nil { // cannot happen: it holds texts only
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(data) // the client is gone when this fails
}

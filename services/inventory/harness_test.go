package inventory_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/services/inventory"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// rig is the service on a real database and a real broker.
type rig struct {
	*consumertest.Rig
	*inventory.Service
}

func setup(t *testing.T) *rig {
	t.Helper()
	r := &rig{}
	r.Rig = consumertest.New(t, consumertest.Config{
		Name: inventory.Name, Migrations: inventory.Migrations(),
		Handlers: func(parts *consumertest.Rig) []consumer.Handler {
			r.Service = inventory.New(parts.Pool, parts.Logger)
			return r.Handlers()
		},
	})
	return r
}

// get asks the read API.
func (r *rig) get(path string) (status int, contentType, body string) {
	r.T.Helper()
	recorder := httptest.NewRecorder()
	r.HTTP().ServeHTTP(recorder, httptest.NewRequestWithContext(r.T.Context(), http.MethodGet, path, nil))
	return recorder.Code, recorder.Header().Get("Content-Type"), recorder.Body.String()
}

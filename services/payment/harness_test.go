package payment_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
	"github.com/countermand/countermand/services/payment"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

// rig is the service on a real database and a real broker. Its settler does not
// run; see [rig.settle] and [rig.settleElsewhere].
type rig struct {
	*consumertest.Rig
	*payment.Service
}

func setup(t *testing.T) *rig {
	t.Helper()
	r := &rig{}
	r.Rig = consumertest.New(t, consumertest.Config{
		Name: payment.Name, Migrations: payment.Migrations(),
		Handlers: func(parts *consumertest.Rig) []consumer.Handler {
			r.Service = payment.New(parts.Pool, parts.Relay.Wake, parts.Logger)
			return r.Handlers()
		},
	})
	return r
}

// settle runs the settler of the process that takes the commands.
func (r *rig) settle() { r.Rig.Run(r.Service.Run) }

// settleElsewhere runs the settler of another process.
func (r *rig) settleElsewhere() { r.Rig.Run(payment.New(r.Pool, r.Relay.Wake, r.Logger).Run) }

// get asks the read API.
func (r *rig) get(path string) (status int, contentType, body string) {
	r.T.Helper()
	recorder := httptest.NewRecorder()
	r.HTTP().ServeHTTP(recorder, httptest.NewRequestWithContext(r.T.Context(), http.MethodGet, path, nil))
	return recorder.Code, recorder.Header().Get("Content-Type"), recorder.Body.String()
}

package gateway

import (
	"bytes"
	"io"
	"net/http"
	"time"
)

// Accept takes a command in for a handler beside the gateway that has found out who
// sent the request (see [WithIdentity]) and has made its body. It heeds the request's
// Idempotency-Key, Prefer and expiry headers and answers it, as a route of that id
// would. The command need not be one that clients may send.
func (g *Gateway) Accept(w http.ResponseWriter, r *http.Request, routeID, commandType string, body []byte) {
	s := g.current.Load()
	x := &exchange{
		ResponseWriter: w, endpoint: s.unmatched[methodLabel(r.Method)], logger: g.logger,
		started: time.Now(), writeTimeout: g.config.WriteTimeout, identity: IdentityOf(r.Context()),
	}
	c, ok := s.table.commands[commandType]
	if !ok {
		x.fail(r, codeUnknownCommand, "This build has no command of that type.")
		return
	}
	r = r.Clone(r.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.Header.Set("Content-Type", contentTypeJSON)
	r.Header.Del("Content-Encoding")
	g.accept(x, r, &acceptance{routeID: routeID, method: r.Method, contract: c, waitMax: g.config.WaitMax, outcome: genericOutcome})
}

package reload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/countermand/countermand/platform/gateway"
)

// Routes is the body of the list of routes.
type Routes struct {
	Status Status              `json:"status"`
	Routes []gateway.RouteInfo `json:"routes"`
}

const (
	contentTypeYAML = "application/yaml"
	textBytesMax    = 1 << 20
)

// Register adds the admin API of the route table to mux, each handler behind
// protect.
//
//	GET /admin/v1/routes         the routes in force and their status
//	GET /admin/v1/routes/table   the text of the table, with its ETag
//	PUT /admin/v1/routes/table   replaces it, given If-Match; ?dry_run=true only checks
//	GET /admin/v1/routes/schema  the JSON Schema of a table
func (l *Loader) Register(mux *http.ServeMux, protect func(http.Handler) http.Handler) {
	handle := func(pattern string, handler http.HandlerFunc) { mux.Handle(pattern, protect(handler)) }
	handle("GET /admin/v1/routes", l.list)
	handle("GET /admin/v1/routes/table", l.show)
	handle("PUT /admin/v1/routes/table", l.put)
	handle("GET /admin/v1/routes/schema", func(w http.ResponseWriter, _ *http.Request) {
		send(w, http.StatusOK, "application/schema+json", gateway.TableSchema())
	})
}

func (l *Loader) list(w http.ResponseWriter, r *http.Request) {
	table, _, tag := l.Table()
	status := l.Status()
	if status.Failure == nil { // the ETag names the table, and not what failed since
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	answer(w, http.StatusOK, "application/json", Routes{status, table.Routes()})
}

func (l *Loader) show(w http.ResponseWriter, r *http.Request) {
	_, text, tag := l.Table()
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	send(w, http.StatusOK, contentTypeYAML, text)
}

// put replaces the table, in this process until it ends or the file changes.
func (l *Loader) put(w http.ResponseWriter, r *http.Request) {
	dry, err := strconv.ParseBool(or(r.URL.Query().Get("dry_run"), "false"))
	if err != nil {
		refuse(w, r, http.StatusBadRequest, "invalid_query", "dry_run: want true or false.")
		return
	}
	match := r.Header.Get("If-Match")
	if match == "" && !dry {
		refuse(w, r, http.StatusPreconditionRequired, "precondition_required",
			"Name the table that this one replaces: If-Match with the ETag that GET has given, or *.")
		return
	}
	if match == "*" {
		match = ""
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, textBytesMax))
	if err != nil {
		refuse(w, r, http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("A route table has at most %d bytes.", textBytesMax))
		return
	}
	if dry {
		table, err := l.config.Parse("routes.yaml", text)
		switch {
		case match != "" && match != l.Status().ETag:
			err = errMoved
			fallthrough
		case err != nil:
			l.refused(w, r, err)
		default:
			status := l.Status()
			status.ETag = etag(text)
			answer(w, http.StatusOK, "application/json", Routes{status, table.Routes()})
		}
		return
	}
	if err := l.replace(r.Context(), FromAdmin, "routes.yaml", text, match); err != nil {
		l.refused(w, r, err)
		return
	}
	table, _, tag := l.Table()
	w.Header().Set("ETag", tag)
	answer(w, http.StatusOK, "application/json", Routes{l.Status(), table.Routes()})
}

func (l *Loader) refused(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, errMoved) {
		w.Header().Set("ETag", l.Status().ETag)
		refuse(w, r, http.StatusPreconditionFailed, "revision_mismatch", "The route table is another one by now: look at it again.")
		return
	}
	p := problem(r, http.StatusUnprocessableEntity, "invalid_routes", "The table is not taken; the one in force stays.")
	for line := range strings.SplitSeq(err.Error(), "\n") {
		p.Errors = append(p.Errors, gateway.Violation{Detail: line})
	}
	answer(w, p.Status, "application/problem+json", p)
}

func problem(r *http.Request, status int, code, detail string) gateway.Problem {
	return gateway.Problem{
		Type: "urn:countermand:problem:" + code, Title: http.StatusText(status), Status: status, Detail: detail, Code: code, Instance: r.URL.Path,
	}
}

func refuse(w http.ResponseWriter, r *http.Request, status int, code, detail string) {
	answer(w, status, "application/problem+json", problem(r, status, code, detail))
}

func answer(w http.ResponseWriter, status int, contentType string, body any) {
	data, err := json.Marshal(body)
	if err != nil { // cannot happen: it holds strings and numbers only
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	send(w, status, contentType, append(data, '\n'))
}

func send(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client is gone when this fails
}

func or(value, byDefault string) string {
	if value == "" {
		return byDefault
	}
	return value
}

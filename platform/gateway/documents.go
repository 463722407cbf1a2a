package gateway

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"regexp"
	"strings"
)

// kindDocuments is that of the routes that tell what the others do.
const kindDocuments = "documents"

const (
	routeOpenAPI  = "openapi"
	routeAsyncAPI = "asyncapi"
	routeDocs     = "docs"
	stylePath     = "/docs/style.css"
)

//go:embed docs/page.html docs/style.css
var docsFiles embed.FS

var docsPage = template.Must(template.New("page.html").Funcs(template.FuncMap{"spans": spans, "odd": func(n int) bool { return n%2 == 1 }}).ParseFS(docsFiles, "docs/page.html"))

// spans divides a text at its backticks: every second part is code.
func spans(text string) []string { return strings.Split(text, "`") }

// docsPolicy lets the page have its style and nothing else: no script, no frame, nothing
// from elsewhere.
const docsPolicy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// docsEntry is a route on the page.
type docsEntry struct {
	ID, Method, Path, Summary, Description, Auth string
	Scopes                                       []string
	Schema                                       string // of the body; JSON
	curl                                         string // without the address
	Curl                                         string
}

// mountDocuments adds what tells of the other routes, unless the table has it not. It is
// there without a credential: it holds nothing but what the table says.
func (s *snapshot) mountDocuments(g *Gateway) error {
	if s.table.undocumented {
		return nil
	}
	openAPI, err := s.table.OpenAPI(g.deps.Described...)
	if err != nil {
		return fmt.Errorf("openapi document: %w", err)
	}
	style, err := docsFiles.ReadFile("docs/style.css")
	if err != nil {
		return fmt.Errorf("docs: %w", err)
	}
	entries, err := s.table.docsEntries(g.deps.Described)
	if err != nil {
		return fmt.Errorf("docs: %w", err)
	}
	documents := map[string]struct {
		id    string
		serve handler
	}{
		"/openapi.json": {routeOpenAPI, fixed(contentTypeJSON, openAPI)},
		stylePath:       {routeDocs, fixed("text/css; charset=utf-8", style)},
		"/docs": {routeDocs, func(x *exchange, r *http.Request) {
			g.serveDocs(x, r, entries)
		}},
	}
	if g.config.AsyncAPI != nil {
		documents["/asyncapi.json"] = struct {
			id    string
			serve handler
		}{routeAsyncAPI, fixed(contentTypeJSON, g.config.AsyncAPI)}
	}
	for path, d := range documents {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			s.mount(g, d.id, method, path, d.serve)
		}
	}
	return nil
}

// fixed returns what serves a document that changes with the table only.
func fixed(contentType string, content []byte) handler {
	sum := sha256.Sum256(content)
	etag := `"` + hex.EncodeToString(sum[:12]) + `"`
	return func(x *exchange, r *http.Request) {
		h := x.Header()
		h.Set("ETag", etag)
		h.Set("Cache-Control", "no-cache")
		if matchesETag(r.Header["If-None-Match"], etag) {
			x.WriteHeader(http.StatusNotModified)
			return
		}
		x.json(http.StatusOK, contentType, content)
	}
}

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9.:\[\]-]+$`)

// serveDocs answers with the page. The address in its commands is the one that it was
// asked for at.
func (g *Gateway) serveDocs(x *exchange, r *http.Request, entries []docsEntry) {
	host, scheme := r.Host, "http"
	if !hostPattern.MatchString(host) {
		host = "gateway.example"
	}
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	shown := make([]docsEntry, len(entries))
	for i, e := range entries {
		e.Curl = strings.ReplaceAll(e.curl, "{gateway}", scheme+"://"+host)
		shown[i] = e
	}
	var page bytes.Buffer
	if err := docsPage.Execute(&page, struct {
		Entries  []docsEntry
		AsyncAPI bool
	}{shown, g.config.AsyncAPI != nil}); err != nil {
		x.failInternal(r, "docs", err)
		return
	}
	h := x.Header()
	h.Set("Content-Security-Policy", docsPolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", noStore)
	x.json(http.StatusOK, "text/html; charset=utf-8", page.Bytes())
}

// docsEntries returns what the page tells of each route.
func (t *Table) docsEntries(fragments [][]byte) (entries []docsEntry, err error) {
	d := &description{table: t, schemas: object{}, tags: make(map[string]bool)}
	add := func(info RouteInfo, operation object, body *contract) {
		e := docsEntry{ID: info.ID, Method: info.Method, Path: info.Path, Auth: info.Auth, Scopes: info.Scopes}
		e.Summary, _ = operation["summary"].(string)
		e.Description, _ = operation["description"].(string)
		sample := ""
		if body != nil {
			var schema any
			if json.Unmarshal(body.Schema, &schema) == nil {
				pretty, _ := json.MarshalIndent(relocate(schema, "#"), "", "  ") //nolint:errchkjson // it was JSON
				e.Schema = string(pretty)
				sampled, _ := json.Marshal(sampleOf(schema)) //nolint:errchkjson // texts and numbers
				sample = string(sampled)
			}
		}
		e.curl = curlOf(info, sample)
		entries = append(entries, e)
	}
	for _, rt := range t.routes {
		var body *contract
		if target, ok := rt.target.(bodied); ok {
			body = target.body()
		}
		add(rt.info(), d.route(rt), body)
	}
	for _, rt := range builtIn {
		if operation := d.builtIn(rt); operation != nil {
			add(t.asked(rt), operation, nil)
		}
	}
	for _, text := range fragments {
		err := d.fragment(text, func(info RouteInfo, operation object) { add(info, operation, nil) })
		if err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// curlOf returns a command that tries a route.
func curlOf(info RouteInfo, body string) string {
	var b strings.Builder
	b.WriteString("curl -si ")
	if info.Method != http.MethodGet && (info.Method != http.MethodPost || body == "") {
		b.WriteString("-X " + info.Method + " ")
	}
	b.WriteString("'{gateway}" + info.Path + "'")
	switch info.Auth {
	case authKey, authEither:
		b.WriteString(` -H "X-Api-Key: $key"`)
	case authJWT:
		b.WriteString(` -H "Authorization: Bearer $token"`)
	}
	if body != "" {
		b.WriteString(" \\\n  -H 'Content-Type: application/json' -d '" + strings.ReplaceAll(body, "'", `'\''`) + "'")
	}
	return b.String()
}

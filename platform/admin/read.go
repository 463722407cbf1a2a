package admin

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countermand/countermand/platform/saga"
)

func (a *api) list(w http.ResponseWriter, r *http.Request) {
	filter, code, err := parseFilter(r.URL.Query())
	if err != nil {
		refuse(w, r, http.StatusBadRequest, code, err.Error())
		return
	}
	page, err := a.reader.List(r.Context(), filter)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if page.Sagas == nil {
		page.Sagas = []saga.Summary{}
	}
	writeJSON(w, List{Sagas: page.Sagas, Next: page.Next})
}

const attributePrefix = "attribute."

// parseFilter reads a filter from a query; code names what is wrong with it.
func parseFilter(query url.Values) (filter saga.Filter, code string, err error) {
	for _, name := range sortedNames(query) {
		values := query[name]
		if len(values) > 1 {
			return filter, "invalid_parameter", fmt.Errorf("%s is given %d times", name, len(values))
		}
		value := values[0]
		code = "invalid_" + name
		switch name {
		case "status":
			filter.Status = saga.Status(value)
			err = checkStatus(filter.Status)
		case "definition":
			filter.Definition = value
		case "code":
			filter.Code = value
		case "step":
			filter.Step = value
		case "created_after":
			filter.CreatedAfter, err = parseTime(name, value)
		case "created_before":
			filter.CreatedBefore, err = parseTime(name, value)
		case "updated_before":
			filter.UpdatedBefore, err = parseTime(name, value)
		case "cursor":
			filter.Cursor = value
		case "limit":
			n, bad := strconv.Atoi(value)
			if bad != nil || n < 1 || n > 500 {
				err = errors.New("limit must be a number from 1 to 500")
			}
			filter.Limit = n
		default:
			attribute, ok := strings.CutPrefix(name, attributePrefix)
			if !ok || attribute == "" {
				return filter, "unknown_parameter", fmt.Errorf("there is no parameter %q", name)
			}
			if filter.Attributes == nil {
				filter.Attributes = make(map[string]string)
			}
			filter.Attributes[attribute] = value
		}
		if err != nil {
			return filter, code, err
		}
	}
	return filter, "", nil
}

func sortedNames(query url.Values) []string {
	names := make([]string, 0, len(query))
	for name := range query {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func checkStatus(status saga.Status) error {
	switch status {
	case "", saga.Running, saga.Compensating, saga.Completed, saga.Compensated, saga.Stuck, saga.Abandoned:
		return nil
	}
	return errors.New("status must be one of running, compensating, completed, compensated, stuck, abandoned")
}

func parseTime(name, value string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return at, fmt.Errorf("%s must be a time such as 2026-11-22T08:30:00Z", name)
	}
	return at, nil
}

func (a *api) get(w http.ResponseWriter, r *http.Request) {
	in, revision, err := a.reader.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("ETag", etag(revision))
	if r.Header.Get("If-None-Match") == etag(revision) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeJSON(w, Saga{Instance: in, Revision: revision})
}

func (a *api) counts(w http.ResponseWriter, r *http.Request) {
	counts, err := a.reader.Counts(r.Context())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeJSON(w, counts)
}

func (a *api) waiting(w http.ResponseWriter, r *http.Request) {
	counts, err := a.reader.Waiting(r.Context())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeJSON(w, counts)
}

func (a *api) history(w http.ResponseWriter, r *http.Request) {
	entries, err := a.reader.History(r.Context(), r.PathValue("id"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeJSON(w, History{Entries: entries})
}

func (a *api) export(w http.ResponseWriter, r *http.Request) {
	export, err := a.reader.Export(r.Context(), r.PathValue("id"))
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Disposition", `attachment; filename="saga-`+export.Saga.ID+`.json"`)
	writeJSON(w, export)
}

func (a *api) definitions(w http.ResponseWriter, r *http.Request) {
	graphs, err := a.reader.Graphs(r.Context())
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if graphs == nil {
		graphs = []saga.Graph{}
	}
	writeJSON(w, Definitions{Definitions: graphs})
}

func (a *api) definition(w http.ResponseWriter, r *http.Request) {
	if graph, ok := a.findGraph(w, r); ok {
		writeJSON(w, graph)
	}
}

func (a *api) graph(w http.ResponseWriter, r *http.Request) {
	format := r.URL.Query().Get("format")
	switch format {
	case "", "json", "mermaid", "svg":
	default:
		refuse(w, r, http.StatusBadRequest, "invalid_format", "format must be json, mermaid or svg")
		return
	}
	graph, ok := a.findGraph(w, r)
	if !ok {
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	switch format {
	case "mermaid":
		w.Header().Set("Content-Type", "text/vnd.mermaid; charset=utf-8")
		_, _ = io.WriteString(w, graph.Mermaid()) // the client is gone when this fails
	case "svg":
		w.Header().Set("Content-Type", "image/svg+xml")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_, _ = io.WriteString(w, graph.SVG()) // the client is gone when this fails
	default:
		writeJSON(w, graph)
	}
}

// findGraph returns the definition that is asked for, the newest unless the
// version is given.
func (a *api) findGraph(w http.ResponseWriter, r *http.Request) (saga.Graph, bool) {
	version := 0
	if text := r.URL.Query().Get("version"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1<<30 {
			refuse(w, r, http.StatusBadRequest, "invalid_version", "version must be a number from 1")
			return saga.Graph{}, false
		}
		version = n
	}
	graph, err := a.reader.Graph(r.Context(), r.PathValue("name"), version)
	if errors.Is(err, saga.ErrNotFound) {
		refuse(w, r, http.StatusNotFound, "definition_not_found", "no engine on this database has run such a definition")
		return graph, false
	} else if err != nil {
		a.fail(w, r, err)
		return graph, false
	}
	return graph, true
}

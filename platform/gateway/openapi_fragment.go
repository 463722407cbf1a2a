package gateway

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
)

// fragment is what another package tells of its resources, see [Table.OpenAPI].
type fragment struct {
	Tag string `json:"tag"`
	// Paths has operations by path and method. One whose security is empty is open to
	// all; others ask for what operations ask for.
	Paths   map[string]map[string]object `json:"paths"`
	Schemas object                       `json:"schemas"`
}

// fragment adds what a fragment tells, and hands each of its operations to put in the
// order of their paths and methods.
func (d *description) fragment(text []byte, put func(info RouteInfo, operation object)) error {
	var f fragment
	if err := json.Unmarshal(text, &f); err != nil {
		return fmt.Errorf("read what describes resources: %w", err)
	}
	for _, path := range sortedKeys(f.Paths) {
		for _, method := range sortedKeys(f.Paths[path]) {
			operation := f.Paths[path][method]
			id, _ := operation["operationId"].(string)
			if _, ok := operation["responses"].(map[string]any); !ok || id == "" {
				return fmt.Errorf("read what describes resources: %s %s wants an operationId and responses", method, path)
			}
			operation["responses"] = object(operation["responses"].(map[string]any))
			info := RouteInfo{ID: id, Method: strings.ToUpper(method), Path: path}
			asked := d.table.auth.builtIn
			if _, open := operation["security"]; open {
				asked, info.Auth = nil, authNone
			} else {
				info = d.table.asked(info)
			}
			d.finish(operation, id, f.Tag, asked, false)
			put(info, operation)
		}
	}
	maps.Copy(d.schemas, f.Schemas)
	return nil
}

package config

import (
	"bytes"
	_ "embed"
	"errors"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

//go:embed ai.schema.json
var schema []byte

// Schema returns the JSON Schema 2020-12 of a configuration, for editors. What depends
// on the environment or on two parts at once only [Parse] can tell.
func Schema() []byte { return bytes.Clone(schema) }

var compiled = sync.OnceValue(func() *jsonschema.Schema {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		panic(err)
	}
	compiler := jsonschema.NewCompiler()
	const location = "urn:countermand:ai"
	if err := compiler.AddResource(location, document); err != nil {
		panic(err)
	}
	return compiler.MustCompile(location)
})

// checkSchema tells what breaks the published schema. It shows no values: somebody may
// have written a secret where a reference belongs.
func checkSchema(text []byte) (faults []string) {
	var value any
	if err := yaml.Unmarshal(text, &value); err != nil {
		return []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	if value == nil {
		return []string{"the file is empty"}
	}
	var invalid *jsonschema.ValidationError
	if err := compiled().Validate(value); !errors.As(err, &invalid) {
		return nil
	}
	leaves(invalid, &faults)
	return faults
}

var english = message.NewPrinter(language.English)

func leaves(e *jsonschema.ValidationError, faults *[]string) {
	for _, cause := range e.Causes {
		leaves(cause, faults)
	}
	if len(e.Causes) == 0 {
		at := strings.Join(e.InstanceLocation, ": ")
		if at != "" {
			at += ": "
		}
		why := e.ErrorKind.LocalizedString(english)
		if path := e.ErrorKind.KeywordPath(); len(path) > 0 && (path[len(path)-1] == "pattern" || path[len(path)-1] == "not") {
			why = "it has not the form that is wanted here"
		}
		*faults = append(*faults, at+why)
	}
}

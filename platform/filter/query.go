package filter

import (
	"errors"
	"net/url"
	"slices"
	"strings"
)

// Query parameters that make a filter.
const (
	ParameterTypes  = "types"   // types of events, comma-separated
	ParameterFilter = "filter"  // an expression in CloudEvents SQL
	ParameterAll    = "filters" // a JSON array of filter expressions
)

// QueryTypesMax is how many types a query may name.
const QueryTypesMax = 64

// IsParameter reports whether a query parameter belongs to the filter: one of the
// constants, or exact., prefix. or suffix. and the name of an attribute.
func IsParameter(name string) bool {
	switch name {
	case ParameterTypes, ParameterFilter, ParameterAll:
		return true
	}
	dialect, attribute, ok := strings.Cut(name, ".")
	return ok && attribute != "" && slices.Contains([]string{"exact", "prefix", "suffix"}, dialect)
}

// ParseQuery compiles the filter that query parameters make; all of them must hold.
// Other parameters are passed over. Without any of its own it gives the nil filter. The
// error is of type [CompileError], each pointing to its parameter.
func ParseQuery(query url.Values) (*Filter, error) {
	var faults CompileError
	var parts []*Filter
	add := func(name string, f *Filter, err error) {
		for _, fault := range faultsOf(err) {
			faults = append(faults, Fault{name + fault.Pointer, fault.Detail})
		}
		parts = append(parts, f)
	}
	names := make([]string, 0, len(query))
	for name := range query {
		if IsParameter(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if name == ParameterTypes {
			types, err := queryTypes(query[name])
			add(name, types, err)
			continue
		}
		for _, value := range query[name] {
			switch dialect, attribute, _ := strings.Cut(name, "."); name {
			case ParameterAll:
				f, err := Parse([]byte(value))
				add(name, f, err)
			case ParameterFilter:
				f, err := one(map[string]any{"sql": value})
				add(name, f, err)
			default:
				f, err := one(map[string]any{dialect: map[string]any{attribute: value}})
				add(name, f, err)
			}
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	all := All(parts...)
	if len(all.String()) > BytesMax {
		return nil, CompileError{{"", "the filters are too long altogether"}}
	}
	return all, nil
}

func queryTypes(values []string) (*Filter, error) {
	var types []string
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			if name == "" || len(types) == QueryTypesMax {
				return nil, CompileError{{"", "want 1 to 64 types, separated by commas"}}
			}
			types = append(types, name)
		}
	}
	return Types(types...), nil
}

// one compiles a single expression; faults have no pointer, for the parameter says all.
func one(expression map[string]any) (*Filter, error) {
	f, err := Compile([]any{expression})
	faults := faultsOf(err)
	for i := range faults {
		faults[i].Pointer = ""
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return f, nil
}

func faultsOf(err error) CompileError {
	faults, _ := errors.AsType[CompileError](err)
	return faults
}

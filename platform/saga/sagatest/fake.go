package sagatest

import (
	"encoding/json"
	"hash/fnv"
	"math/rand/v2"
	"reflect"
	"time"
)

// random returns a source of its own for each key, so that what is made up for a
// command does not depend on what happened before it.
func random(seed uint64, key string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	return source(seed, h.Sum64())
}

// source returns the random numbers of a seed for one purpose.
func source(seed, purpose uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, purpose)) //nolint:gosec // a run must be the same each time
}

// fakeJSON makes up a value of that type and returns it as JSON; a nil type has
// none.
func fakeJSON(rng *rand.Rand, t reflect.Type) ([]byte, error) {
	if t == nil {
		return nil, nil
	}
	v := reflect.New(t).Elem()
	fake(rng, v, 0)
	return json.Marshal(v.Interface())
}

var (
	timeType = reflect.TypeFor[time.Time]()
	rawType  = reflect.TypeFor[json.RawMessage]()
	words    = []string{"", "a", "ada", "TEA-001", "ok", "0197f0c1", "é", "<&>"}
)

// fake fills v with something small. What it cannot fill stays zero.
func fake(rng *rand.Rand, v reflect.Value, depth int) {
	if !v.CanSet() || depth > 6 {
		return
	}
	switch v.Type() {
	case timeType:
		v.Set(reflect.ValueOf(dawn.Add(time.Duration(rng.Int64N(int64(48*time.Hour))) - 24*time.Hour).Truncate(time.Second)))
		return
	case rawType:
		v.SetBytes([]byte("{}"))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(rng.Int64N(100))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(rng.Uint64N(100))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(float64(rng.IntN(1000)) / 8)
	case reflect.String:
		v.SetString(words[rng.IntN(len(words))])
	case reflect.Pointer:
		if rng.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fake(rng, v.Elem(), depth+1)
		}
	case reflect.Slice:
		n := rng.IntN(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fake(rng, v.Index(i), depth+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			fake(rng, v.Index(i), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range rng.IntN(3) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fake(rng, key, depth+1)
			fake(rng, value, depth+1)
			v.SetMapIndex(key, value)
		}
	case reflect.Struct:
		for _, field := range v.Fields() {
			fake(rng, field, depth+1)
		}
	default: // it has no JSON, or any
	}
}

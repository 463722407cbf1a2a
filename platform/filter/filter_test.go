package filter_test

import (
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/filter"
)

func confirmed() *events.Event {
	return &events.Event{
		ID: "7", Source: "/services/order", Type: "shop.order.confirmed.v1", Subject: "orders/7",
		Time:            time.Date(2026, 11, 23, 12, 0, 0, 0, time.FixedZone("", 3600)),
		DataContentType: events.ContentTypeJSON, Data: []byte(`{"total":900}`),
		CorrelationID: "op-1", Extensions: map[string]string{"tenantid": "acme", "weight": "12"},
	}
}

func TestFilter(t *testing.T) {
	for _, c := range []struct {
		filters string
		want    bool
	}{
		{`[]`, true},
		{`[{"exact":{"type":"shop.order.confirmed.v1"}}]`, true},
		{`[{"exact":{"type":"shop.order.confirmed.v1","subject":"orders/8"}}]`, false},
		{`[{"exact":{"type":"SHOP.order.confirmed.v1"}}]`, false},
		{`[{"exact":{"specversion":"1.0","id":"7","datacontenttype":"application/json"}}]`, true},
		{`[{"exact":{"time":"2026-11-23T11:00:00Z"}}]`, true},
		{`[{"exact":{"dataschema":"urn:x"}}]`, false},
		{`[{"prefix":{"type":"shop.order.","subject":"orders/"}}]`, true},
		{`[{"prefix":{"nothere":"a"}}]`, false},
		{`[{"suffix":{"type":".v1"}}]`, true},
		{`[{"suffix":{"type":".v2"}}]`, false},
		{`[{"exact":{"correlationid":"op-1","tenantid":"acme"}}]`, true},
		{`[{"exact":{"id":"7"}},{"exact":{"id":"8"}}]`, false},
		{`[{"any":[{"exact":{"id":"8"}},{"exact":{"id":"7"}}]}]`, true},
		{`[{"any":[{"exact":{"id":"8"}},{"exact":{"id":"9"}}]}]`, false},
		{`[{"all":[{"exact":{"id":"7"}},{"not":{"exact":{"id":"7"}}}]}]`, false},
		{`[{"not":{"exact":{"nothere":"a"}}}]`, true},
		{`[{"sql":"type LIKE 'shop.order.%' AND tenantid = 'acme'"}]`, true},
		{`[{"sql":"weight > 11"}]`, true},
		{`[{"sql":"weight > 12"}]`, false},
		{`[{"sql":"subject IN ('orders/7', 'orders/8')"}]`, true},
		{`[{"sql":"EXISTS nothere"}]`, false},
		{`[{"sql":"nothere = 'a'"}]`, false},
		{`[{"sql":"nothere != 'a'"}]`, false}, // an error is false either way
		{`[{"sql":"1 / 0 = 1 OR TRUE"}]`, false},
		{`[{"sql":"SUBSTRING(type, 3, -2) = 'x'"}]`, false}, // at which the SDK panics
		{`[{"not":{"sql":"SUBSTRING(type, 1, 0 - 1) = 'x'"}}]`, true},
		{`[{"sql":"'true'"}]`, true},
		{`[{"sql":"LEFT(type, 4) = 'shop' and not false"}]`, true},
		{`[{"sql":"time = '2026-11-23T12:00:00+01:00'"}]`, true},
	} {
		f, err := filter.Parse([]byte(c.filters))
		if err != nil {
			t.Errorf("%s: %v", c.filters, err)
			continue
		}
		if got := f.Matches(confirmed()); got != c.want {
			t.Errorf("%s is %t, want %t", c.filters, got, c.want)
		}
		again, err := filter.Parse([]byte(f.String()))
		if err != nil || again.String() != f.String() || again.Matches(confirmed()) != c.want {
			t.Errorf("%s becomes %s, which is another filter: %v", c.filters, f, err)
		}
	}
}

func TestEveryFaultIsNamedByItsPlace(t *testing.T) {
	deep := strings.Repeat(`{"not":`, 9) + `{"exact":{"id":"1"}}` + strings.Repeat("}", 9)
	for name, c := range map[string]struct {
		filters string
		want    []string
	}{
		"no_json":       {`[{"exact":`, []string{"no acceptable JSON"}},
		"twice":         {`[{"exact":{"id":"1","id":"2"}}]`, []string{"/0/exact/id: no acceptable JSON: duplicate"}},
		"no_array":      {`{"exact":{"id":"1"}}`, []string{"want an array"}},
		"no_object":     {`["exact"]`, []string{"/0: want an object with one dialect"}},
		"two_dialects":  {`[{"exact":{"id":"1"},"not":{}}]`, []string{"/0: want an object with one dialect"}},
		"dialect":       {`[{"any":[{"exact":{"id":"1"}},{"re~/gex":{}}]}]`, []string{"/0/any/1/re~0~1gex: there is no such dialect"}},
		"no_attributes": {`[{"prefix":{}}]`, []string{"/0/prefix: want an object of at least one attribute"}},
		"values": {`[{"suffix":{"type":"","Subject":"a","data":"x","id":7}}]`, []string{
			"/0/suffix/Subject: want the name of an attribute", "/0/suffix/data: want the name", "/0/suffix/id: want a text", "/0/suffix/type: want a text that is not empty",
		}},
		"long_value":   {`[{"exact":{"id":"` + strings.Repeat("x", 1025) + `"}}]`, []string{"/0/exact/id: the value has 1025 bytes"}},
		"empty_any":    {`[{"any":[]}]`, []string{"/0/any: want an array of at least one"}},
		"all_no_array": {`[{"all":{}}]`, []string{"/0/all: want an array of at least one"}},
		"not":          {`[{"not":[]}]`, []string{"/0/not: want an object with one dialect"}},
		"sql_type":     {`[{"sql":1}]`, []string{"/0/sql: want a text"}},
		"deep":         {`[` + deep + `]`, []string{"/0" + strings.Repeat("/not", 8) + ": expressions are nested deeper than 8"}},
		"many":         {`[` + strings.Repeat(`{"exact":{"id":"1"}},`, 64) + `{"exact":{"id":"1"}}]`, []string{"65 expressions, at most 64"}},
		"large":        {`[{"exact":{"id":"` + strings.Repeat("x", filter.BytesMax) + `"}}]`, []string{"at most 16384"}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := filter.Parse([]byte(c.filters))
			if err == nil {
				t.Fatalf("is taken as %s", f)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
}

func TestCloudEventsSQLThatIsWrongIsRefused(t *testing.T) {
	for source, want := range map[string]string{
		"":                                    "empty",
		" ":                                   "empty",
		"type = 'a' 'b'":                      "column 12",
		"type =":                              "column 7",
		"(type = 'a'":                         "column 12",
		"type = 'a":                           "column 8",
		"type = 'a' #":                        "column 12",
		"type IN ()":                          "column 10",
		"NOT":                                 "the end",
		"MATCHES(type, 'a')":                  "column 1: there is no function MATCHES of 2 arguments",
		"type = 'a' OR LENGTH() = 1":          "column 15: there is no function LENGTH of 0 arguments",
		"99999999999 = 1":                     "out of range",
		strings.Repeat("(", 17) + "TRUE":      "more than 16",
		strings.Repeat("NOT ", 17) + "TRUE":   "more than 16",
		strings.Repeat("id = '1' OR ", 100):   "at most 256",
		"'" + strings.Repeat("x", 2048) + "'": "at most 2048",
	} {
		began := time.Now()
		f, err := filter.Compile([]any{map[string]any{"sql": source}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "/0/sql: ") {
			t.Errorf("%q: %v, %v; want %q", source, f, err, want)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%.20q takes %s", source, took)
		}
	}
}

func TestQuery(t *testing.T) {
	query := url.Values{
		"types": {"shop.order.confirmed.v1,shop.order.placed.v1"}, "filter": {"EXISTS subject"}, "prefix.subject": {"orders/"},
		"filters": {`[{"exact":{"id":"7"}}]`}, "after": {"x"},
	}
	f, err := filter.ParseQuery(query)
	if err != nil || !f.Matches(confirmed()) {
		t.Fatalf("%v: %v", f, err)
	}
	want := `[{"sql":"EXISTS subject"},{"exact":{"id":"7"}},{"prefix":{"subject":"orders/"}},` +
		`{"any":[{"exact":{"type":"shop.order.confirmed.v1"}},{"exact":{"type":"shop.order.placed.v1"}}]}]`
	if f.String() != want {
		t.Errorf("the filter is %s", f)
	}
	for name, value := range map[string]string{
		"types": "shop.order.placed.v1", "filter": "id = '8'", "exact.id": "8", "prefix.subject": "x", "suffix.subject": "x", "filters": `[{"exact":{"id":"8"}}]`,
	} {
		f, err := filter.ParseQuery(url.Values{name: {value}})
		if err != nil || f.Matches(confirmed()) {
			t.Errorf("%s=%s holds: %v", name, value, err)
		}
	}
	if f, err := filter.ParseQuery(url.Values{"after": {"x"}}); f != nil || err != nil {
		t.Errorf("no filter is %v, %v", f, err)
	}
	_, err = filter.ParseQuery(url.Values{"types": {"a,,b"}, "filter": {"type ="}, "exact.Type": {"a"}, "filters": {`[{"sql":""}]`, `{}`}})
	faults, ok := errors.AsType[filter.CompileError](err)
	if !ok {
		t.Fatalf("the error is %v", err)
	}
	var places []string
	for _, fault := range faults {
		places = append(places, fault.Pointer)
	}
	if diff := cmp.Diff([]string{"exact.Type", "filter", "filters/0/sql", "filters", "types"}, places); diff != "" {
		t.Error(diff, faults)
	}
}

func TestTypesAndAll(t *testing.T) {
	if f := filter.All(nil, filter.Types()); f != nil || !f.Matches(confirmed()) {
		t.Errorf("no filter is %v", f)
	}
	order := filter.Types("shop.order.confirmed.v1")
	if f := filter.All(nil, order); f != order {
		t.Errorf("one filter becomes %v", f)
	}
	if f := filter.All(order, filter.Types("other.v1", "a.v1")); f.Matches(confirmed()) || f.String() !=
		`[{"exact":{"type":"shop.order.confirmed.v1"}},{"any":[{"exact":{"type":"a.v1"}},{"exact":{"type":"other.v1"}}]}]` {
		t.Errorf("both are %s", f)
	}
}

func TestComparingAllocatesNothing(t *testing.T) {
	f, err := filter.Parse([]byte(`[{"any":[{"exact":{"type":"a"}},{"prefix":{"subject":"orders/"}},{"suffix":{"tenantid":"x"}}]},{"not":{"exact":{"id":"9"}}}]`))
	if err != nil {
		t.Fatal(err)
	}
	e := confirmed()
	if n := testing.AllocsPerRun(100, func() {
		if !f.Matches(e) {
			t.Error("does not match")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestConcurrentUse(t *testing.T) {
	f, err := filter.Parse([]byte(`[{"sql":"type LIKE 'shop.%' AND LENGTH(subject) > 3"},{"exact":{"id":"7"}}]`))
	if err != nil {
		t.Fatal(err)
	}
	e := confirmed()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				if !f.Matches(e) {
					t.Error("does not match")
				}
				if _, err := filter.Compile([]any{map[string]any{"sql": "id = '1' AND (type = 'a' OR type = 'b')"}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// FuzzParse looks for filters that make the compiler or the SDK behind it panic.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`[{"sql":"type = 'a' AND (EXISTS subject OR 1 < 2)"}]`))
	f.Add([]byte(`[{"any":[{"exact":{"id":"1"}},{"not":{"prefix":{"type":"a"}}}]}]`))
	f.Fuzz(func(t *testing.T, document []byte) {
		if compiled, err := filter.Parse(document); err == nil {
			compiled.Matches(confirmed())
			if again, err := filter.Parse([]byte(compiled.String())); err != nil && len(compiled.String()) <= filter.BytesMax {
				t.Errorf("%q becomes %q, which is refused: %v", document, again, err)
			}
		}
	})
}

func BenchmarkMatches(b *testing.B) {
	for name, filters := range map[string]string{
		"prefix": `[{"prefix":{"type":"shop.order.","subject":"orders/"}}]`,
		"sql":    `[{"sql":"type LIKE 'shop.order.%' AND subject = 'orders/7'"}]`,
	} {
		f, err := filter.Parse([]byte(filters))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			e := confirmed()
			b.ReportAllocs()
			for b.Loop() {
				f.Matches(e)
			}
		})
	}
}

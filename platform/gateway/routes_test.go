package gateway_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countermand/countermand/platform/gateway"
)

// TestTableFaults reads each testdata/*.yaml; the comments at its end, after the
// line "# ---", are the errors it must give, all of them and in order.
func TestTableFaults(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			table, expected, found := strings.Cut(string(data), "# ---\n")
			if !found {
				t.Fatal("no expected errors")
			}
			var want []string
			for line := range strings.Lines(expected) {
				want = append(want, strings.TrimPrefix(strings.TrimSpace(line), "# "))
			}
			_, err = gateway.ParseTable("routes.yaml", []byte(table), contracts(t), lookupIn(map[string]string{"EMPTY": ""}))
			if err == nil {
				t.Fatal("want errors")
			}
			if got := err.Error(); got != strings.Join(want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
			}
		})
	}
}

func TestTablesThatAreGood(t *testing.T) {
	t.Parallel()
	for name, table := range map[string]string{
		"no routes": "version: 1\n",
		"a literal beside a parameter": `
version: 1
upstreams: {order: {url: "http://127.0.0.1:1"}}
routes:
  - {id: one, kind: proxy, match: "GET /v1/orders/{id}", upstream: order}
  - {id: latest, kind: proxy, match: GET /v1/orders/latest, upstream: order}
  - {id: head, kind: proxy, match: HEAD /v1/orders/latest, upstream: order}
  - {id: root, kind: proxy, match: GET /, upstream: order}
`,
		"an alias": `
version: 1
upstreams: {order: &u {url: "https://order.example/base", timeout: 1m}, stock: *u}
routes: [{id: a, kind: proxy, match: GET /a, upstream: stock}]
`,
	} {
		if _, err := gateway.ParseTable("routes.yaml", []byte(table), contracts(t), lookupIn(nil)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnvironmentInUpstreams(t *testing.T) {
	t.Parallel()
	env := map[string]string{"HOST": "order.example", "EMPTY": ""}
	for url, want := range map[string]string{
		"http://${HOST}:80/x":                    "",
		"${NOPE:-http://127.0.0.1:1}":            "",
		"http://${EMPTY:-order.example}/${HOST}": "",
		"http://${NOPE}":                         "the environment variable NOPE is not set and has no default here",
		"http://${EMPTY}":                        "the environment variable EMPTY is not set and has no default here",
		"http://${HOST":                          "${ without }",
		"http://${A B}":                          "${A B}: want ${NAME} or ${NAME:-default}",
		"${HOST}":                                `"order.example": want http or https, a host and at most a path`,
		"http://user:secret@h":                   `"http://user:xxxxx@h": want http or https, a host and at most a path`,
	} {
		table := fmt.Sprintf("version: 1\nupstreams: {a: {url: %q}}\n", url)
		_, err := gateway.ParseTable("routes.yaml", []byte(table), gateway.Contracts{}, lookupIn(env))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", url, err)
		case want != "" && (err == nil || err.Error() != "routes.yaml:2: upstream a: url: "+want):
			t.Errorf("%s: got %v, want %s", url, err, want)
		}
	}
}

func TestContractsThatCannotBeServed(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]gateway.Command{
		"bad type":        {Type: "Order", Topic: "shop.commands", Schema: []byte(`{}`)},
		"bad topic":       {Type: "shop.order.do.v1", Topic: "a.>", Schema: []byte(`{}`)},
		"schema no JSON":  {Type: "shop.order.do.v1", Topic: "shop.commands", Schema: []byte(`{`)},
		"schema invalid":  {Type: "shop.order.do.v1", Topic: "shop.commands", Schema: []byte(`{"type":"number","minimum":"1"}`)},
		"schema outside":  {Type: "shop.order.do.v1", Topic: "shop.commands", Schema: []byte(`{"$ref":"file:///etc/passwd"}`)},
		"schema on a net": {Type: "shop.order.do.v1", Topic: "shop.commands", Schema: []byte(`{"$ref":"http://127.0.0.1/x"}`)},
	} {
		if _, err := gateway.ParseTable("routes.yaml", []byte("version: 1"), gateway.Contracts{Commands: []gateway.Command{command}}, lookupIn(nil)); err == nil {
			t.Errorf("%s: want an error", name)
		}
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	table, err := gateway.ParseTable("routes.yaml", []byte("version: 1"), gateway.Contracts{}, lookupIn(nil))
	if err != nil {
		t.Fatal(err)
	}
	_, err = gateway.New(gateway.Config{Secret: []byte("short"), BodyBytesMax: 2 << 20, WaitMax: -1}, table, gateway.Deps{})
	for _, want := range []string{"secret has 5 bytes", "body limit of 2097152 bytes", "wait limit of -1ns is negative", "are required"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
}

package wire

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/asyncapi"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/webhook"
)

var update = flag.Bool("update", false, "write docs/reference/asyncapi-*.json and openapi.json anew")

// The committed document is that of the shop's route table, at a gateway with webhooks.
func TestOpenAPI(t *testing.T) {
	table, err := ParseRoutes(BuiltInRoutes, shopRoutes, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	want, err := table.OpenAPI(route.OpenAPI(), webhook.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	file := filepath.Join("testdata", "linked", "openapi.json")
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != string(want) {
		t.Errorf("docs/reference/%s differs from the route table and the contracts; run: make generate", filepath.Base(file))
	}
}

// TestAsyncAPI/the_committed_documents_match is the drift check: a change of who says
// what to whom must show in the diff.
func TestAsyncAPI(t *testing.T) {
	for _, on := range []asyncapi.Broker{asyncapi.NATS, asyncapi.Kafka} {
		t.Run("the committed documents match/"+string(on), func(t *testing.T) {
			want, err := AsyncAPI(on)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "linked", "asyncapi-"+string(on)+".json")
			if *update {
				if err := os.WriteFile(file, want, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := os.ReadFile(file)
			if err != nil || string(got) != string(want) {
				t.Errorf("docs/reference/%s differs from the contracts, definitions and handlers; run: make generate", filepath.Base(file))
			}
		})
	}
	t.Run("a role has a document of its own", func(t *testing.T) {
		content, err := AsyncAPI(asyncapi.NATS, Inventory)
		if err != nil {
			t.Fatal(err)
		}
		var document struct {
			Channels   map[string]any
			Operations map[string]struct{ Action string }
		}
		if err := json.Unmarshal(content, &document); err != nil {
			t.Fatal(err)
		}
		if len(document.Channels) != 2 || document.Operations["inventory.receive.shop.inventory.reserve.v1"].Action != "receive" {
			t.Errorf("channels %v, operations %v", document.Channels, document.Operations)
		}
		for id := range document.Operations {
			if id[:len("inventory.")] != "inventory." {
				t.Errorf("%s is not of this role", id)
			}
		}
	})
}

// What somebody says and nobody hears is an error of the tables or of the system.
// Facts may have no reader yet.
func TestEveryContractHasSomebodyWhoSaysItAndHearsIt(t *testing.T) {
	all, err := applications()
	if err != nil {
		t.Fatal(err)
	}
	said, heard := make(map[string][]string), make(map[string][]string)
	note := func(in map[string][]string, name string, lists ...[]events.Descriptor) {
		for _, list := range lists {
			for _, d := range list {
				key := d.Type + " on " + string(d.Topic)
				if slices.Contains(in[key], name) {
					t.Errorf("%s has %s twice", name, key)
				}
				in[key] = append(in[key], name)
			}
		}
	}
	for _, a := range all {
		note(said, a.Name, a.Calls, a.Sends)
		note(heard, a.Name, a.Handles, a.Receives)
	}
	for what, who := range heard {
		if len(said[what]) == 0 && what != "saga.cancel.v1 on saga.signals" { // which programs of users send
			t.Errorf("%s hears %s, and nobody says it", who, what)
		}
	}
	for _, contract := range Contracts() {
		d := contract.Describe()
		what := d.Type + " on " + string(d.Topic)
		signal := d.Type + " on " + string(events.Signals)
		if len(said[what])+len(said[signal]) == 0 {
			t.Errorf("nobody says %s", what)
		}
		if d.Kind == events.KindCommand && len(heard[what]) != 1 {
			t.Errorf("%s is a command, and %v obey it", what, heard[what])
		}
	}
}

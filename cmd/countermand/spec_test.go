package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countermand/countermand/cmd/internal/wire"
)

func TestSpec(t *testing.T) {
	quiet(t)
	folder := filepath.Join(t.TempDir(), "new", "folder")
	for _, test := range []struct {
		args string
		want int
		file string // that must be there, and begin so
	}{
		{"spec openapi --out " + folder, wire.ExitOK, "openapi.json"},
		{"spec openapi", wire.ExitOK, ""},
		{"spec openapi --routes nowhere.yaml", wire.ExitFailed, ""},
		{"spec asyncapi --out " + folder, wire.ExitOK, "asyncapi-nats.json"},
		{"spec asyncapi --broker kafka --role order --role payment --out " + folder, wire.ExitOK, "asyncapi-kafka.json"},
		{"spec jsonschema --out " + folder, wire.ExitOK, "shop.order.create.v1.reply.json"},
		{"spec jsonschema shop.order.create.v1", wire.ExitOK, ""},
		{"spec jsonschema", wire.ExitOK, ""},
		{"spec jsonschema shop.order.nothing.v1", exitNotFound, ""},
		{"spec asyncapi --broker smoke", wire.ExitUsage, ""},
		{"spec asyncapi --role nobody", wire.ExitUsage, ""},
	} {
		if got := run(t.Context(), strings.Fields(test.args)); got != test.want {
			t.Errorf("%s: exit code %d, want %d", test.args, got, test.want)
		}
		if test.file == "" {
			continue
		}
		if content, err := os.ReadFile(filepath.Join(folder, test.file)); err != nil || !bytes.HasPrefix(content, []byte("{\n")) {
			t.Errorf("%s: %s is %q, %v", test.args, test.file, content[:min(len(content), 20)], err)
		}
	}
}

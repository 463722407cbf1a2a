package wire

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/fx"
)

func TestWhatARoleFailsWithIsToldWithoutItsWiring(t *testing.T) {
	app := fx.New(fx.NopLogger, fx.Provide(func() (int, error) { return 0, errors.New("routes.yaml:4: no such kind") }),
		fx.Provide(func(int) string { return "" }), fx.Invoke(func(string) {}))
	if got := cause(app.Err()).Error(); got != "routes.yaml:4: no such kind" {
		t.Errorf("it says %q", got)
	}
}

func TestATakenAddressIsToldWithWhatToDo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	_, err = listen(context.Background(), slog.New(slog.DiscardHandler), "http", taken.Addr().String(), DefaultHTTPAddr)
	if err == nil || !strings.Contains(err.Error(), "choose another address") {
		t.Errorf("error %v", err)
	}
}

func TestAGatewayWithAFaultInItsRoutesIsWronglyConfigured(t *testing.T) {
	routes := filepath.Join(t.TempDir(), "routes.yaml")
	if err := os.WriteFile(routes, []byte("version: 1\nroutes:\n  - {id: x, kind: comand}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"DATABASE_URL": "postgres://u:p@127.0.0.1:1/x", "NATS_URL": "nats://127.0.0.1:1", "COUNTERMAND_ADMIN_ADDR": "127.0.0.1:0",
		"COUNTERMAND_SECRET": "a secret for this test only", "COUNTERMAND_ROUTES": routes,
	} {
		t.Setenv(name, value)
	}
	if code := Main(Gateway); code != ExitUsage {
		t.Errorf("it ends with %d, want %d", code, ExitUsage)
	}
}

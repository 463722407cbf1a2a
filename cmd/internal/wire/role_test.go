package wire

import (
	"context"
	"errors"
	"log/slog"
	"net"
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

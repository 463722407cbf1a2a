package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/countermand/countermand/platform/embedded"
)

// serveJetStream serves a broker of its own process until the input ends.
func serveJetStream(folder string, noSync bool) error {
	server, err := embedded.StartNATS(embedded.NATSConfig{
		StoreDir: folder, Listen: "127.0.0.1:0", NoSync: noSync,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	defer server.Stop()
	fmt.Println(server.URL())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

package gateway

import (
	"log/slog"
	"net/http"
	"time"
)

// Limits of [NewServer].
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second
	idleTimeout       = 60 * time.Second
	headerBytesMax    = 16 << 10
	http2StreamsMax   = 100
)

// NewServer returns a server for the public listener, with limits on how long a
// client may take and how much it may send. Writing has no limit here, since a
// client may wait for an outcome and a response may stream: the [Gateway] sets a
// deadline for each write. A nil logger means slog.Default.
func NewServer(addr string, handler http.Handler, logger *slog.Logger) *http.Server {
	if logger == nil {
		logger = slog.Default()
	}
	return &http.Server{
		Addr:              addr,
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytesMax,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: http2StreamsMax},
		// What net/http logs is about single connections: clients that break off,
		// handshakes that fail.
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

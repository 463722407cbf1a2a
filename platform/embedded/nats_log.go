package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// natsLog passes the server's warnings and errors on. It implements
// server.Logger.
type natsLog struct {
	to *slog.Logger

	mu    sync.Mutex
	fatal error
}

// Noticef drops what the server says about its normal life.
func (*natsLog) Noticef(string, ...any) {}

// Debugf drops the message.
func (*natsLog) Debugf(string, ...any) {}

// Tracef drops the message.
func (*natsLog) Tracef(string, ...any) {}

// Warnf logs the message as a warning.
func (l *natsLog) Warnf(format string, args ...any) {
	l.to.Warn("nats server warning", "detail", fmt.Sprintf(format, args...))
}

// Errorf logs the message as an error.
func (l *natsLog) Errorf(format string, args ...any) {
	l.to.Error("nats server error", "detail", fmt.Sprintf(format, args...))
}

// Fatalf logs and keeps the message. The server expects its process to end
// here, which is not for a library to do.
func (l *natsLog) Fatalf(format string, args ...any) {
	detail := fmt.Sprintf(format, args...)
	l.to.Error("nats server cannot go on", "detail", detail)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == nil {
		l.fatal = errors.New(detail)
	}
}

func (l *natsLog) fatalError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

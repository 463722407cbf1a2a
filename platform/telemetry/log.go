package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/lmittmann/tint"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/term"
)

// LogFormat is how log records are written.
type LogFormat string

// The formats of logs. The zero value is LogAuto.
const (
	LogAuto LogFormat = ""     // text on a terminal, JSON otherwise
	LogJSON LogFormat = "json" // one JSON object per line
	LogText LogFormat = "text" // for people
)

// UnmarshalText reads a format from configuration: auto, json or text.
func (f *LogFormat) UnmarshalText(text []byte) error {
	switch format := LogFormat(text); format {
	case LogAuto, LogJSON, LogText:
		*f = format
	case "auto":
		*f = LogAuto
	default:
		return fmt.Errorf("log format %q: want auto, json or text", text)
	}
	return nil
}

// LogConfig says what is logged and how. The zero value logs from info upward,
// readable on a terminal and as JSON elsewhere.
type LogConfig struct {
	// Level is the least level that is logged. Nil means info; a *slog.LevelVar
	// can be changed while the process runs.
	Level  slog.Leveler
	Format LogFormat
}

// NewLogger returns a logger that writes to w, one Write per record. A record
// logged with a context that carries a span has its trace_id and span_id, at the
// top level whatever groups the logger has. Text is coloured on a terminal only,
// and never when NO_COLOR is set.
func NewLogger(w io.Writer, cfg LogConfig) *slog.Logger {
	if cfg.Level == nil {
		cfg.Level = slog.LevelInfo
	}
	terminal := isTerminal(w)
	format := cfg.Format
	if format == LogAuto {
		format = LogJSON
		if terminal {
			format = LogText
		}
	}
	if format == LogJSON {
		return slog.New(&traceHandler{handler: slog.NewJSONHandler(w, &slog.HandlerOptions{Level: cfg.Level})})
	}
	return slog.New(&traceHandler{handler: tint.NewTextHandler(w, &tint.Options{
		Level:      cfg.Level,
		TimeFormat: time.TimeOnly + ".000",
		NoColor:    !terminal || os.Getenv("NO_COLOR") != "",
	})})
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// traceHandler adds the ids of the span in the record's context. Once a group is
// open, what a handler adds to a record lands inside it; so from there on the
// groups and attributes are kept here and applied after the ids.
type traceHandler struct {
	handler slog.Handler                      // without what later holds
	later   []func(slog.Handler) slog.Handler // the first opens a group
	full    slog.Handler                      // with it; nil when later is empty
}

func (h *traceHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.handler.Enabled(ctx, level)
}

func (h *traceHandler) Handle(ctx context.Context, record slog.Record) error {
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() {
		return cmp.Or(h.full, h.handler).Handle(ctx, record)
	}
	ids := [...]slog.Attr{
		slog.String("trace_id", span.TraceID().String()),
		slog.String("span_id", span.SpanID().String()),
	}
	if len(h.later) == 0 {
		record = record.Clone()
		record.AddAttrs(ids[:]...)
		return h.handler.Handle(ctx, record)
	}
	handler := h.handler.WithAttrs(ids[:])
	for _, apply := range h.later {
		handler = apply(handler)
	}
	return handler.Handle(ctx, record)
}

func (h *traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(h.later) == 0 {
		return &traceHandler{handler: h.handler.WithAttrs(attrs)}
	}
	return h.then(func(next slog.Handler) slog.Handler { return next.WithAttrs(attrs) })
}

func (h *traceHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.then(func(next slog.Handler) slog.Handler { return next.WithGroup(name) })
}

func (h *traceHandler) then(apply func(slog.Handler) slog.Handler) slog.Handler {
	return &traceHandler{
		handler: h.handler,
		later:   append(slices.Clip(h.later), apply),
		full:    apply(cmp.Or(h.full, h.handler)),
	}
}

package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/platform/telemetry"
)

func withSpan(ctx context.Context) context.Context {
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{15: 1}, SpanID: trace.SpanID{7: 2}, TraceFlags: trace.FlagsSampled,
	}))
}

func TestLoggerNamesTheTrace(t *testing.T) {
	t.Parallel()
	const ids = `"trace_id":"00000000000000000000000000000001","span_id":"0000000000000002"`
	for name, test := range map[string]struct {
		log  func(ctx context.Context, logger *slog.Logger)
		want string
	}{
		"plain": {
			func(ctx context.Context, logger *slog.Logger) { logger.InfoContext(ctx, "m", slog.Int("a", 1)) },
			`"msg":"m","a":1,` + ids + `}`,
		},
		"attributes": {
			func(ctx context.Context, logger *slog.Logger) { logger.With(slog.Int("a", 1)).InfoContext(ctx, "m") },
			`"msg":"m","a":1,` + ids + `}`,
		},
		"groups": {
			func(ctx context.Context, logger *slog.Logger) {
				logger.With(slog.Int("a", 1)).WithGroup("g").With(slog.Int("b", 2)).WithGroup("h").
					InfoContext(ctx, "m", slog.Int("c", 3))
			},
			`"msg":"m","a":1,` + ids + `,"g":{"b":2,"h":{"c":3}}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			logger := telemetry.NewLogger(&out, telemetry.LogConfig{})
			test.log(withSpan(t.Context()), logger)
			if got := strings.TrimSpace(out.String()); !strings.HasSuffix(got, test.want) {
				t.Errorf("got  %s\nwant …%s", got, test.want)
			}
			out.Reset()
			test.log(t.Context(), logger)
			if want := strings.ReplaceAll(strings.ReplaceAll(test.want, ","+ids, ""), ids+",", ""); !strings.HasSuffix(strings.TrimSpace(out.String()), want) {
				t.Errorf("without a span: got %s\nwant …%s", out.String(), want)
			}
		})
	}
}

func TestLoggerFormats(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := func(cfg telemetry.LogConfig) string {
		out.Reset()
		logger := telemetry.NewLogger(&out, cfg)
		logger.Debug("too fine")
		logger.Warn("disk is full", slog.Any("error", errors.New("no space")), slog.String("volume", "data"))
		return out.String()
	}
	for _, format := range []telemetry.LogFormat{telemetry.LogAuto, telemetry.LogJSON} {
		var record map[string]any
		if err := json.Unmarshal([]byte(log(telemetry.LogConfig{Format: format})), &record); err != nil {
			t.Fatalf("%q: one JSON object was expected: %v", format, err)
		}
		if record["msg"] != "disk is full" || record["error"] != "no space" || record["level"] != "WARN" {
			t.Errorf("%q: %v", format, record)
		}
	}
	text := log(telemetry.LogConfig{Format: telemetry.LogText})
	if !strings.Contains(text, `WRN disk is full error="no space" volume=data`) || strings.Contains(text, "\x1b") {
		t.Errorf("text that is not for a terminal: %q", text)
	}
	if text := log(telemetry.LogConfig{Level: slog.LevelDebug}); !strings.Contains(text, "too fine") {
		t.Errorf("level debug: %q", text)
	}
}

func TestLogFormatUnmarshal(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]telemetry.LogFormat{
		"": telemetry.LogAuto, "auto": telemetry.LogAuto, "json": telemetry.LogJSON, "text": telemetry.LogText,
	} {
		var got telemetry.LogFormat
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	var format telemetry.LogFormat
	if err := format.UnmarshalText([]byte("xml")); err == nil {
		t.Error("xml was taken")
	}
}

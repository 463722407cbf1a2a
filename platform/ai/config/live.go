package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/platform/gateway/reload"
)

// builtinName is what errors call the configuration that is built in.
const builtinName = "ai.yaml (built in)"

// Live is a configuration that follows its file: when that changes, when a key's file
// does, and on SIGHUP. One that is wrong leaves the last good one in force, and says so
// in the log and in the metric countermand_ai_config_stale.
type Live struct {
	file    string
	sources Sources
	logger  *slog.Logger
	loads   *prometheus.CounterVec
	stale   prometheus.Gauge

	text    []byte
	current *Config
	refused string // the error about the last text that was refused
}

// Load reads the configuration of a file, or the one that is built in when file is
// empty.
func Load(file string, lookupEnv func(string) (string, bool), registerer prometheus.Registerer, logger *slog.Logger) (*Live, error) {
	l := &Live{
		file: file, sources: Sources{LookupEnv: lookupEnv, ReadFile: os.ReadFile}, logger: logger,
		loads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_ai_config_loads_total",
			Help: "Attempts to replace the configuration of the AI route, by result (loaded, refused).",
		}, []string{"result"}),
		stale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "countermand_ai_config_stale",
			Help: "1 while the last attempt to replace the configuration of the AI route failed, so that an older one is in force.",
		}),
	}
	if err := errors.Join(registerer.Register(l.loads), registerer.Register(l.stale)); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	var err error
	l.text, l.current, err = l.read()
	return l, err
}

func (l *Live) read() ([]byte, *Config, error) {
	if l.file == "" {
		c, err := Parse(builtinName, builtin, l.sources)
		return builtin, c, err
	}
	text, err := os.ReadFile(l.file)
	if err != nil {
		return nil, nil, fmt.Errorf("AI configuration: %w", err)
	}
	c, err := Parse(l.file, text, l.sources)
	return text, c, err
}

// Config returns the configuration that [Load] has read.
func (l *Live) Config() *Config { return l.current }

// Run has apply serve what the file says from now on, until ctx ends; then it returns
// nil.
func (l *Live) Run(ctx context.Context, apply func(*Config)) error {
	look := func(ctx context.Context) { l.refresh(ctx, apply) }
	return reload.Watch(ctx, l.file, l.logger, look, look)
}

func (l *Live) refresh(ctx context.Context, apply func(*Config)) {
	text, c, err := l.read()
	if err != nil {
		if err.Error() != l.refused { // tell once
			l.refused = err.Error()
			l.loads.WithLabelValues("refused").Inc()
			l.stale.Set(1)
			l.logger.ErrorContext(ctx, "AI configuration refused, the last good one stays in force", slog.Any("error", err))
		}
		return
	}
	l.refused = ""
	l.stale.Set(0)
	// The text says all but what the secrets are.
	if bytes.Equal(text, l.text) && reflect.DeepEqual(c.Upstream, l.current.Upstream) && reflect.DeepEqual(c.Guards.Webhook, l.current.Guards.Webhook) {
		return
	}
	l.text, l.current = text, c
	apply(c)
	l.loads.WithLabelValues("loaded").Inc()
	l.logger.InfoContext(ctx, "AI configuration loaded", slog.String("file", l.file))
}

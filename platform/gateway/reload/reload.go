// Package reload replaces the route table of a running gateway: when its file
// changes, on SIGHUP, and by the admin API. A table is taken as a whole or not at
// all. One that is wrong leaves the last good one in force, and says so in the log,
// in the metric countermand_routes_stale and in the status.
package reload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countermand/countermand/platform/gateway"
)

// Config of a [Loader]. All but File, Registerer and Logger are required.
type Config struct {
	// File is where the table is read from again; empty when it is built in, and so
	// changed by the admin API only.
	File string
	// Name is what errors call the table, Text how it was read at the start, and
	// Table what it was parsed to.
	Name  string
	Text  []byte
	Table *gateway.Table
	// Parse reads a table.
	Parse func(name string, text []byte) (*gateway.Table, error)
	// Apply has the gateway serve a table. When it fails the old one stays.
	Apply func(ctx context.Context, table *gateway.Table) error

	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Where a table came from.
const (
	FromStart = "start"
	FromFile  = "file"
	FromAdmin = "admin"
)

// Status tells which table is in force.
type Status struct {
	// Generation counts the tables that were in force, from 1.
	Generation int `json:"generation"`
	// ETag names the text of the table.
	ETag string `json:"etag"`
	// Source is where it came from: start, file or admin. One of the admin API is
	// gone with the process.
	Source   string    `json:"source"`
	File     string    `json:"file,omitempty"`
	LoadedAt time.Time `json:"loaded_at"`
	// Failure is why the last attempt to replace it failed; nil when it did not.
	Failure *Failure `json:"failure,omitempty"`
}

// Failure is an attempt that left the table as it was.
type Failure struct {
	At     time.Time `json:"at"`
	Source string    `json:"source"`
	Errors []string  `json:"errors"`
}

// Loader replaces a table. Make it with [New]; it is safe for concurrent use.
type Loader struct {
	config  Config
	reloads *prometheus.CounterVec
	stale   prometheus.Gauge

	changing sync.Mutex // held while a table is replaced

	mu      sync.Mutex
	status  Status
	text    []byte
	table   *gateway.Table
	lastRaw []byte // of the file, as last read, good or bad
}

// New returns a loader of the table that is in force.
func New(config Config) (*Loader, error) {
	if config.Registerer == nil {
		config.Registerer = prometheus.NewRegistry()
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	l := &Loader{
		config: config,
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_routes_loads_total",
			Help: "Attempts to replace the route table, by source (file, admin) and result (loaded, refused).",
		}, []string{"source", "result"}),
		stale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "countermand_routes_stale",
			Help: "1 while the last attempt to replace the route table failed, so that an older one is in force.",
		}),
		status:  Status{Generation: 1, ETag: etag(config.Text), Source: FromStart, File: config.File, LoadedAt: time.Now().UTC()},
		text:    config.Text,
		table:   config.Table,
		lastRaw: config.Text,
	}
	if err := errors.Join(config.Registerer.Register(l.reloads), config.Registerer.Register(l.stale)); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return l, nil
}

// etag names a text.
func etag(text []byte) string {
	sum := sha256.Sum256(text)
	return `"` + hex.EncodeToString(sum[:12]) + `"`
}

// Status returns which table is in force.
func (l *Loader) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// Table returns the table in force, its text and its ETag.
func (l *Loader) Table() (table *gateway.Table, text []byte, tag string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.table, l.text, l.status.ETag
}

// errMoved means that the table is not the one that was to be replaced.
var errMoved = errors.New("the route table is another one by now")

// replace puts a table in force. match names the one that it replaces; empty for
// any.
func (l *Loader) replace(ctx context.Context, source, name string, text []byte, match string) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	if match != "" && match != l.Status().ETag {
		return errMoved
	}
	table, err := l.config.Parse(name, text)
	if err == nil {
		err = l.config.Apply(ctx, table)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.status.Failure = &Failure{At: time.Now().UTC(), Source: source, Errors: strings.Split(err.Error(), "\n")}
		l.reloads.WithLabelValues(source, "refused").Inc()
		l.stale.Set(1)
		l.config.Logger.ErrorContext(ctx, "route table refused, the last good one stays in force",
			"source", source, "generation", l.status.Generation, "error", err)
		return err
	}
	l.status = Status{
		Generation: l.status.Generation + 1, ETag: etag(text), Source: source, File: l.config.File, LoadedAt: time.Now().UTC(),
	}
	l.table, l.text = table, text
	l.reloads.WithLabelValues(source, "loaded").Inc()
	l.stale.Set(0)
	l.config.Logger.InfoContext(ctx, "route table loaded", "source", source, "generation", l.status.Generation)
	return nil
}

// Reload reads the file and puts it in force, whether or not it has changed.
func (l *Loader) Reload(ctx context.Context) error {
	if l.config.File == "" {
		return errors.New("the route table is built in, there is no file to read")
	}
	text, err := os.ReadFile(l.config.File)
	if err != nil {
		return l.unreadable(ctx, err)
	}
	l.mu.Lock()
	l.lastRaw = text
	l.mu.Unlock()
	return l.replace(ctx, FromFile, l.config.Name, text, "")
}

// refresh is Reload when the file is not what it was when last read.
func (l *Loader) refresh(ctx context.Context) {
	text, err := os.ReadFile(l.config.File)
	if err != nil {
		_ = l.unreadable(ctx, err) // told there
		return
	}
	l.mu.Lock()
	same := bytes.Equal(text, l.lastRaw)
	l.lastRaw = text
	l.mu.Unlock()
	if !same {
		_ = l.replace(ctx, FromFile, l.config.Name, text, "") // told there
	}
}

// unreadable notes that the file cannot be read, once until it can.
func (l *Loader) unreadable(ctx context.Context, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	told := l.lastRaw == nil
	l.lastRaw = nil
	if !told {
		l.status.Failure = &Failure{At: time.Now().UTC(), Source: FromFile, Errors: []string{err.Error()}}
		l.reloads.WithLabelValues(FromFile, "refused").Inc()
		l.stale.Set(1)
		l.config.Logger.ErrorContext(ctx, "route table cannot be read, the last good one stays in force", "error", err)
	}
	return fmt.Errorf("read route table: %w", err)
}

// Run reloads the table on SIGHUP and when its file changes, until ctx ends; then it
// returns nil. A table that is built in leaves it nothing to do.
func (l *Loader) Run(ctx context.Context) error {
	return Watch(ctx, l.config.File, l.config.Logger, l.refresh, func(ctx context.Context) {
		_ = l.Reload(ctx) // told there
	})
}

package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/countermand/countermand/platform/broker"
)

// Limits that no configuration changes.
const (
	secretBytesMin     = 16
	headersMax         = 100
	queryParametersMax = 100
	jsonDepthMax       = 64
	violationsMax      = 100 // in one problem document
	waitLimit          = 5 * time.Minute
	// bodyBytesLimit leaves room for the attributes beside the data.
	bodyBytesLimit = broker.MessageBytesMax - 64<<10
)

// Config is what an operator sets. The zero value of every field but Secret is
// its default.
type Config struct {
	// Secret keys the ids of operations: replicas with the same secret give the
	// same id for the same Idempotency-Key, and know each other's ids. At least
	// 16 bytes; required.
	Secret []byte
	// BodyBytesMax bounds the body of a request; 256 KiB.
	BodyBytesMax int64
	// Hosts are the names by which clients call the gateway, without ports. A request
	// for another one is refused. Empty: any, but no host in the request line.
	Hosts []string
	// AsyncAPI is the document that /asyncapi.json answers with; nil: there is none.
	AsyncAPI []byte
	// Durability is what a command survives once it is accepted, "fsync", "replicated"
	// or "memory", of the broker and of the Intake. Clients are told by the header
	// Countermand-Durability; empty: they are not.
	Durability, IntakeDurability string
	// PublishTimeout bounds the wait for the broker's ack, or the Intake's; 5 s.
	PublishTimeout time.Duration
	// LookupTimeout bounds one read from Operations or of an original; 2 s.
	LookupTimeout time.Duration
	// WaitMax caps Prefer: wait where no route sets a cap of its own; 30 s.
	WaitMax time.Duration
	// WaitsMax is how many requests may wait at once; one more is answered as if
	// it had not asked to wait; 4096.
	WaitsMax int
	// PollInterval is how often a waiting request asks Operations although
	// nobody notified it; 1 s.
	PollInterval time.Duration
	// FollowersMax is how many event streams of operations may be open; 10,000.
	FollowersMax int
	// FollowInterval is how often the followed operations are looked at for progress,
	// all of them with one statement; 250 ms. Their end is told at once.
	FollowInterval time.Duration
	// HeartbeatInterval is how often an idle stream sends a comment; 15 s.
	HeartbeatInterval time.Duration
	// RecheckInterval is how often a stream asks whether the credential that opened it
	// is still taken; 5 s. Of one that expires the time is known.
	RecheckInterval time.Duration
	// AcceptedAgeMax is how long an operation made without an Idempotency-Key may
	// be unknown to Operations and still be told as accepted; 24 h. After that it is
	// told as no longer kept.
	AcceptedAgeMax time.Duration
	// WriteTimeout bounds one write to a client and, over HTTP/2, a pause within a
	// response; one that flows may take longer; 30 s.
	WriteTimeout time.Duration

	// Registerer takes the metrics; nil keeps them to the gateway.
	Registerer prometheus.Registerer
	// TracerProvider makes the spans; nil means OpenTelemetry's global one.
	TracerProvider trace.TracerProvider
	// Logger takes what an operator must know; nil means slog.Default.
	Logger *slog.Logger
}

// Validate reports every field that cannot be served, joined.
func (c Config) Validate() error {
	var errs []error
	if len(c.Secret) < secretBytesMin {
		errs = append(errs, fmt.Errorf("secret has %d bytes, at least %d are needed", len(c.Secret), secretBytesMin))
	}
	if c.BodyBytesMax < 0 || c.BodyBytesMax > bodyBytesLimit {
		errs = append(errs, fmt.Errorf("body limit of %d bytes is not within 0 and %d", c.BodyBytesMax, bodyBytesLimit))
	}
	if c.WaitMax > waitLimit {
		errs = append(errs, fmt.Errorf("wait limit of %s is over %s", c.WaitMax, waitLimit))
	}
	if c.FollowersMax < 0 {
		errs = append(errs, fmt.Errorf("limit of %d followers is negative", c.FollowersMax))
	}
	if c.WaitsMax < 0 {
		errs = append(errs, fmt.Errorf("limit of %d waiting requests is negative", c.WaitsMax))
	}
	for name, d := range map[string]time.Duration{
		"publish timeout": c.PublishTimeout, "lookup timeout": c.LookupTimeout, "wait limit": c.WaitMax,
		"poll interval": c.PollInterval, "accepted age": c.AcceptedAgeMax, "write timeout": c.WriteTimeout,
		"follow interval": c.FollowInterval, "heartbeat interval": c.HeartbeatInterval, "recheck interval": c.RecheckInterval,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s of %s is negative", name, d))
		}
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	byDefault(&c.BodyBytesMax, 256<<10)
	byDefault(&c.PublishTimeout, 5*time.Second)
	byDefault(&c.LookupTimeout, 2*time.Second)
	byDefault(&c.WaitMax, 30*time.Second)
	byDefault(&c.WaitsMax, 4096)
	byDefault(&c.PollInterval, time.Second)
	byDefault(&c.FollowersMax, 10_000)
	byDefault(&c.FollowInterval, 250*time.Millisecond)
	byDefault(&c.HeartbeatInterval, 15*time.Second)
	byDefault(&c.RecheckInterval, 5*time.Second)
	byDefault(&c.AcceptedAgeMax, 24*time.Hour)
	byDefault(&c.WriteTimeout, 30*time.Second)
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func byDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

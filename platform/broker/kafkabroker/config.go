package kafkabroker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// Mechanisms of [Config].
const (
	ScramSHA512 = "SCRAM-SHA-512"
	ScramSHA256 = "SCRAM-SHA-256"
	Plain       = "PLAIN"
)

// Config of a [Broker]. Addrs is required; the zero value of every other field is
// its default.
type Config struct {
	// Addrs are servers to begin with, as host:port; one that answers is enough.
	Addrs []string
	// ClientID names this process in the server's logs and quotas: countermand by
	// default.
	ClientID string
	// Username turns SASL on, with Password and the Mechanism SCRAM-SHA-512 by
	// default. PLAIN sends the password as it is, so it needs TLS.
	Username, Password, Mechanism string
	// TLS turns TLS on.
	TLS *tls.Config
	// Dial opens connections, below TLS: by TCP by default.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// TopicPrefix goes before the name of every topic and into that of every group,
	// so that several installations can share a cluster. They would take each other's
	// messages otherwise.
	TopicPrefix string
	// Partitions of every topic: 8 by default. It is fixed when a topic is made; a
	// later start with another number is refused, since it would reorder keys.
	Partitions int
	// Replicas of each new topic, 1 by default, 3 on a cluster; existing topics must
	// have as many.
	Replicas int
	// MinInSync is how many replicas must have a message before it is acked: by
	// default one less than Replicas, and at least 1. Existing topics must not ask
	// for fewer.
	MinInSync int
	// MaxAge of messages: 7 days by default. It bounds how far back a reader may
	// replay and must be longer than any consumer may be away. Existing topics must
	// keep messages for at least as long.
	MaxAge time.Duration

	// DuplicateWindow is for how long copies of a message are found that another
	// process has published, or this one before it was started anew: two minutes are
	// usual. It costs reading back every topic that this process publishes to, and
	// some 100 bytes of memory per message of the window. Zero finds no such copies,
	// which is right for whoever's readers recognise them by themselves.
	DuplicateWindow time.Duration

	// Timeout of one publish or request: 5 s by default.
	Timeout time.Duration
	// SessionTimeout is how long a member of a group may be silent before its
	// partitions go to others: 30 s by default, at least 6 s on most servers.
	SessionTimeout time.Duration
	// RebalanceGrace is how long a member may go on handling a message whose
	// partition is wanted by the group, while all members wait: two thirds of
	// SessionTimeout by default. The message goes to another member then.
	RebalanceGrace time.Duration
	Logger         *slog.Logger
}

var prefixPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{0,100}$`)

func (c Config) withDefaults() Config {
	if c.ClientID == "" {
		c.ClientID = "countermand"
	}
	if c.Username != "" && c.Mechanism == "" {
		c.Mechanism = ScramSHA512
	}
	if c.Partitions == 0 {
		c.Partitions = 8
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.MinInSync == 0 {
		c.MinInSync = max(1, c.Replicas-1)
	}
	if c.MaxAge == 0 {
		c.MaxAge = 7 * 24 * time.Hour
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	if c.SessionTimeout == 0 {
		c.SessionTimeout = 30 * time.Second
	}
	if c.RebalanceGrace == 0 {
		c.RebalanceGrace = c.SessionTimeout * 2 / 3
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// check reports everything that is wrong with a config that has its defaults.
func (c Config) check() error {
	var errs []error
	if len(c.Addrs) == 0 {
		errs = append(errs, errors.New("no server addresses: name at least one as host:port"))
	}
	for _, addr := range c.Addrs {
		if !strings.Contains(addr, ":") || strings.Contains(addr, "/") {
			errs = append(errs, fmt.Errorf("server address %q: want host:port", addr))
		}
	}
	if !prefixPattern.MatchString(c.TopicPrefix) {
		errs = append(errs, fmt.Errorf("topic prefix %q: want at most 100 of A-Z, a-z, 0-9, dot, dash and underscore", c.TopicPrefix))
	}
	if c.MinInSync > c.Replicas {
		errs = append(errs, fmt.Errorf("%d replicas in sync are asked for and there are %d: nothing could be published", c.MinInSync, c.Replicas))
	}
	if c.RebalanceGrace >= c.SessionTimeout {
		errs = append(errs, fmt.Errorf("the rebalance grace %s must be shorter than the session timeout %s", c.RebalanceGrace, c.SessionTimeout))
	}
	if c.Mechanism == Plain && c.TLS == nil {
		errs = append(errs, errors.New("PLAIN without TLS would send the password in the clear: turn TLS on or use SCRAM-SHA-512"))
	}
	return errors.Join(errs...)
}

// mechanism returns how the connections log in; nil when they do not.
func (c Config) mechanism() (sasl.Mechanism, error) {
	switch {
	case c.Username == "":
		return nil, nil
	case c.Mechanism == ScramSHA512:
		return scram.Mechanism(scram.SHA512, c.Username, c.Password)
	case c.Mechanism == ScramSHA256:
		return scram.Mechanism(scram.SHA256, c.Username, c.Password)
	case c.Mechanism == Plain:
		return plain.Mechanism{Username: c.Username, Password: c.Password}, nil
	}
	return nil, fmt.Errorf("SASL mechanism %q: want %s, %s or %s", c.Mechanism, ScramSHA512, ScramSHA256, Plain)
}

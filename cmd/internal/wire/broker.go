package wire

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/fx"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/kafkabroker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
)

// The brokers, as COUNTERMAND_BROKER names them.
const (
	NATS  = "nats"
	Kafka = "kafka"
)

// BrokerConfig says which broker to speak to, and where it is. It may hold
// secrets.
type BrokerConfig struct {
	Name    string
	NATSURL string
	Kafka   kafkabroker.Config
	// Durability is what a message survives once the broker has acknowledged it: fsync,
	// replicated or memory; empty: nobody has said.
	Durability string
}

// Classes of durability.
const (
	durableFsync      = "fsync"
	durableReplicated = "replicated"
	durableMemory     = "memory"
)

// kafkaReplicas is what a topic has by default in production: one may be lost and
// another one restarted without losing a message.
const kafkaReplicas = 3

// BrokerFromEnvironment reads the broker's configuration. embedded says that NATS
// comes with the process, if it is NATS, and that one Kafka server is enough. The
// error joins everything that is missing or wrong.
func BrokerFromEnvironment(embedded bool) (BrokerConfig, error) {
	v := variables{}
	c := BrokerConfig{Name: v.oneOf("COUNTERMAND_BROKER", NATS, Kafka)}
	switch {
	case c.Name == Kafka:
		c.Kafka = v.kafka(embedded)
	case !embedded:
		c.NATSURL = v.required("NATS_URL", "the NATS server, such as nats://127.0.0.1:4222")
	}
	switch {
	case os.Getenv("COUNTERMAND_DURABILITY") != "":
		c.Durability = v.oneOf("COUNTERMAND_DURABILITY", durableFsync, durableReplicated, durableMemory)
	case c.Name == Kafka && c.Kafka.Replicas > 1:
		c.Durability = durableReplicated
	case c.Name == Kafka:
		c.Durability = durableMemory // Kafka syncs later
	case embedded:
		c.Durability = durableFsync
	}
	return c, errors.Join(v.errs...)
}

// variables reads environment variables and collects what is wrong with them.
type variables struct{ errs []error }

func (v *variables) fail(format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf(format, args...))
}

func (v *variables) optional(name string) string {
	value, err := secretVariable(name)
	if err != nil {
		v.errs = append(v.errs, err)
	}
	return value
}

func (v *variables) required(name, what string) string {
	value, err := secretVariable(name)
	if err != nil {
		v.errs = append(v.errs, err)
	} else if value == "" {
		v.fail("%s is not set: %s", name, what)
	}
	return value
}

// oneOf returns the variable, which must be one of those values; the first is the
// default.
func (v *variables) oneOf(name string, values ...string) string {
	value := os.Getenv(name)
	if value == "" {
		return values[0]
	}
	if !slices.Contains(values, value) {
		v.fail("%s %q: want %s", name, value, strings.Join(values, " or "))
	}
	return value
}

func (v *variables) number(name string, fallback int) int {
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		v.fail("%s %q: want a number from 1", name, text)
	}
	return n
}

func (v *variables) duration(name string) time.Duration {
	text := os.Getenv(name)
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		v.fail("%s %q: want a duration such as 168h", name, text)
	}
	return d
}

func (v *variables) kafka(embedded bool) kafkabroker.Config {
	replicas := kafkaReplicas
	if embedded {
		replicas = 1
	}
	c := kafkabroker.Config{
		Username:    v.optional("KAFKA_USERNAME"),
		Password:    v.optional("KAFKA_PASSWORD"),
		Mechanism:   v.oneOf("KAFKA_SASL_MECHANISM", kafkabroker.ScramSHA512, kafkabroker.ScramSHA256, kafkabroker.Plain),
		Replicas:    v.number("KAFKA_REPLICAS", replicas),
		TopicPrefix: os.Getenv("KAFKA_TOPIC_PREFIX"),
		MinInSync:   v.number("KAFKA_MIN_IN_SYNC", 0),
		MaxAge:      v.duration("KAFKA_RETENTION"),
		TLS:         v.kafkaTLS(),
	}
	for addr := range strings.SplitSeq(v.required("KAFKA_BROKERS", "Kafka servers as host:port, comma-separated"), ",") {
		if addr = strings.TrimSpace(addr); addr != "" {
			c.Addrs = append(c.Addrs, addr)
		}
	}
	if c.Username != "" && c.Password == "" {
		v.fail("KAFKA_PASSWORD is not set: the password of KAFKA_USERNAME")
	}
	return c
}

// kafkaTLS returns nil when KAFKA_TLS does not turn it on.
func (v *variables) kafkaTLS() *tls.Config {
	ca, cert, key := v.optional("KAFKA_TLS_CA"), v.optional("KAFKA_TLS_CERT"), v.optional("KAFKA_TLS_KEY")
	if v.oneOf("KAFKA_TLS", "false", "true") == "false" {
		if ca != "" || cert != "" || key != "" {
			v.fail("KAFKA_TLS is not true, but certificates are given: set it, or remove them")
		}
		return nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(ca)) {
			v.fail("KAFKA_TLS_CA holds no PEM certificate")
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil {
			v.fail("KAFKA_TLS_CERT and KAFKA_TLS_KEY: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// duplicateWindow is for how long a gateway finds copies of a command. Everybody
// else's messages are recognised by whoever gets them.
const duplicateWindow = 2 * time.Minute

// newBroker returns the process's broker, or makes the role's own. Roles that
// share one share its batches as well.
func newBroker(l lifecycle, config Config, process *Process) (b broker.Broker, err error) {
	kafka := config.Broker.Name == Kafka
	switch {
	case process.Broker != nil && (!kafka || config.Role != Gateway): // which finds copies, at a cost
		b = process.Broker
	case kafka:
		b, err = connectKafka(l, config, process)
	default:
		b, err = connectNATS(l, config, process)
	}
	if err != nil {
		return nil, err
	}
	if config.Role != Gateway { // which may serve without it
		process.Health.Add("broker/"+config.Role, b.Ping)
	}
	return b, nil
}

func connectKafka(l lifecycle, config Config, process *Process) (broker.Broker, error) {
	settings := config.Broker.Kafka
	settings.ClientID, settings.Logger = "countermand-"+config.Role, process.Logger
	if config.Role == Gateway {
		settings.DuplicateWindow = duplicateWindow
	}
	b, err := kafkabroker.New(settings)
	if err != nil {
		return nil, err
	}
	l.Hooks.Append(fx.StopHook(b.Close))
	return b, nil
}

func connectNATS(l lifecycle, config Config, process *Process) (broker.Broker, error) {
	conn, err := nats.Connect(config.Broker.NATSURL,
		nats.Name("countermand-"+config.Role),
		nats.MaxReconnects(-1),            // the default gives up after two minutes
		nats.RetryOnFailedConnect(true),   // start before the broker, as orchestrators do
		nats.PingInterval(10*time.Second), // the default notices a dead server after four minutes
		// A server that is restarted is back sooner than the default of 2 s, and all
		// that time nothing is accepted.
		nats.ReconnectWait(250*time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, 500*time.Millisecond),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				process.Logger.Warn("broker connection lost", "role", config.Role, "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { process.Logger.Info("broker connection is back", "role", config.Role) }),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	l.Hooks.Append(fx.StopHook(conn.Close))
	return natsbroker.New(conn, natsbroker.Config{})
}

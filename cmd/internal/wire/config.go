package wire

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/telemetry"
)

// The roles.
const (
	Gateway   = "gateway"
	Engine    = "engine"
	Order     = "order"
	Payment   = "payment"
	Inventory = "inventory"
	AI        = "ai"
)

// Roles lists every role in the order in which a single process starts them.
func Roles() []string { return []string{Engine, Order, Payment, Inventory, AI, Gateway} }

// Default addresses. A default port that is taken is replaced by the next free
// one; an address that was asked for is not.
const (
	DefaultHTTPAddr  = "127.0.0.1:8080"
	DefaultAdminAddr = "127.0.0.1:8081"
)

// Config is what one role needs to know. Secrets in it must not be logged.
type Config struct {
	Role        string
	DatabaseURL string // the role's own database; the gateway's is the engine's, read only
	Broker      BrokerConfig
	Consumer    ConsumerConfig // of the services
	HTTPAddr    string         // empty: the default, with a free port if need be
	AdminAddr   string
	// Secret derives operation ids; all gateways share it. At least 16 bytes.
	Secret []byte
	// StoreURL is the gateway's own database; empty: it has none, and neither API keys
	// nor webhooks.
	StoreURL string
	Edge     EdgeConfig // of the gateway
	// Webhooks say whether and how the gateway delivers events to webhooks.
	Webhooks WebhookConfig
	// AIDatabaseURL is the database of AI calls, for the gateway; empty: it counts
	// nothing, unless the role of AI calls is in the same process.
	AIDatabaseURL string
	// AICallEvents has an event told of every AI call.
	AICallEvents bool
	// RoutesFile is the gateway's route table; empty means the shop's.
	RoutesFile string
	// AIFile is the configuration of AI models; empty means simulated ones.
	AIFile string
	// Lookup resolves variables in the route table and keys of the AI route.
	Lookup func(string) (string, bool)
}

// FromEnvironment reads the configuration of a role. Every secret can be given
// as NAME or as a file in NAME_FILE. The error joins everything that is missing.
func FromEnvironment(role string) (Config, error) {
	v := variables{}
	c := Config{
		Role:        role,
		DatabaseURL: v.required("DATABASE_URL", "the Postgres URL of the "+role+" database"),
		HTTPAddr:    os.Getenv("COUNTERMAND_HTTP_ADDR"),
		AdminAddr:   os.Getenv("COUNTERMAND_ADMIN_ADDR"),
		Lookup:      os.LookupEnv,
	}
	var err error
	if c.Broker, err = BrokerFromEnvironment(false); err != nil {
		v.errs = append(v.errs, err)
	}
	if c.Consumer, err = ConsumerFromEnvironment(); err != nil {
		v.errs = append(v.errs, err)
	}
	c.AIFile = os.Getenv("COUNTERMAND_AI")
	if c.AICallEvents, err = AICallEventsFromEnvironment(); err != nil {
		v.errs = append(v.errs, err)
	}
	if role == Gateway {
		c.AIDatabaseURL = v.optional("COUNTERMAND_AI_DATABASE_URL")
		c.RoutesFile = os.Getenv("COUNTERMAND_ROUTES")
		c.StoreURL = v.optional("COUNTERMAND_GATEWAY_DATABASE_URL")
		var err error
		if c.Edge, err = EdgeFromEnvironment(); err != nil {
			v.errs = append(v.errs, err)
		}
		if c.Webhooks, err = WebhooksFromEnvironment(false, nil); err != nil {
			v.errs = append(v.errs, err)
		}
		c.Secret = []byte(v.required("COUNTERMAND_SECRET", "at least 16 random bytes, the same for all gateways; try: openssl rand -hex 32"))
		if n := len(c.Secret); n > 0 && n < 16 {
			v.fail("COUNTERMAND_SECRET is shorter than 16 bytes; try: openssl rand -hex 32")
		}
	}
	return c, errors.Join(v.errs...)
}

// EdgeConfig is how the gateway meets its clients.
type EdgeConfig struct {
	// KeyGrace is for how long known API keys are taken while the gateway's own database
	// does not answer; 0: the default, negative: not at all.
	KeyGrace time.Duration
	// Open has the gateway serve a table that does not say who may send requests on an
	// address that is not loopback.
	Open bool
	// Hosts are the names by which clients call the gateway; empty: any.
	Hosts []string
	// Connections bound those of clients.
	Connections gateway.ConnectionLimits
	// DrainDelay is how long the gateway serves on after it is told to stop, for load
	// balancers to notice.
	DrainDelay time.Duration
}

// connectionsMax leaves room for the followers that a gateway may have, and as many
// requests beside them.
const connectionsMax = 20_000

// drainDelay is longer than load balancers commonly take to ask whether a process is
// ready.
const drainDelay = 5 * time.Second

// EdgeFromEnvironment reads how the gateway meets its clients.
func EdgeFromEnvironment() (EdgeConfig, error) {
	v := variables{}
	c := EdgeConfig{
		Open: v.oneOf("COUNTERMAND_OPEN", "false", "true") == "true",
		Connections: gateway.ConnectionLimits{
			Total:      v.number("COUNTERMAND_CONNECTIONS_MAX", connectionsMax),
			PerAddress: v.number("COUNTERMAND_CONNECTIONS_PER_ADDRESS", 0),
		},
	}
	if os.Getenv("COUNTERMAND_KEY_GRACE") == "none" {
		c.KeyGrace = -1
	} else {
		c.KeyGrace = v.duration("COUNTERMAND_KEY_GRACE")
	}
	switch os.Getenv("COUNTERMAND_DRAIN_DELAY") {
	case "":
		c.DrainDelay = drainDelay
	case "none":
	default:
		if c.DrainDelay = v.duration("COUNTERMAND_DRAIN_DELAY"); c.DrainDelay > stopTimeout/2 {
			v.fail("COUNTERMAND_DRAIN_DELAY %s: want at most %s, which leaves as much to finish", c.DrainDelay, stopTimeout/2)
		}
	}
	for host := range strings.SplitSeq(os.Getenv("COUNTERMAND_HOSTS"), ",") {
		if host = strings.TrimSpace(host); host != "" {
			c.Hosts = append(c.Hosts, host)
		}
	}
	return c, errors.Join(v.errs...)
}

// AICallEventsFromEnvironment reads whether there is an event about every AI call.
func AICallEventsFromEnvironment() (bool, error) {
	v := variables{}
	told := v.oneOf("COUNTERMAND_AI_CALL_EVENTS", "true", "false") == "true"
	return told, errors.Join(v.errs...)
}

// ConsumerConfig is how services take commands in.
type ConsumerConfig struct {
	// CheckPayloads has payloads checked against the JSON Schemas of their contracts.
	CheckPayloads bool
	// InboxWindow is for how long handled commands are remembered; 0: for ever.
	InboxWindow time.Duration
}

// inboxWindow is twice the age at which streams and topics drop messages by default.
const inboxWindow = 14 * 24 * time.Hour

// ConsumerFromEnvironment reads the configuration of the services' consumers.
func ConsumerFromEnvironment() (ConsumerConfig, error) {
	v := variables{}
	c := ConsumerConfig{CheckPayloads: v.oneOf("COUNTERMAND_CHECK_PAYLOADS", "false", "true") == "true", InboxWindow: inboxWindow}
	switch text := os.Getenv("COUNTERMAND_INBOX_WINDOW"); text {
	case "":
	case "forever":
		c.InboxWindow = 0
	default:
		c.InboxWindow = v.duration("COUNTERMAND_INBOX_WINDOW")
	}
	return c, errors.Join(v.errs...)
}

// secretVariable returns the variable, or the content of the file that its
// _FILE twin names, without trailing line breaks.
func secretVariable(name string) (string, error) {
	value, file := os.Getenv(name), os.Getenv(name+"_FILE")
	switch {
	case value != "" && file != "":
		return "", fmt.Errorf("both %s and %s_FILE are set: keep one", name, name)
	case file == "":
		return value, nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	return strings.TrimRight(string(content), "\r\n"), nil
}

// NewLogger returns the process's logger as COUNTERMAND_LOG_LEVEL (debug, info,
// warn, error) and COUNTERMAND_LOG_FORMAT (auto, json, text) say, on stderr:
// stdout is for data.
func NewLogger(least slog.Level) (*slog.Logger, error) {
	config := telemetry.LogConfig{Level: least}
	if text := os.Getenv("COUNTERMAND_LOG_LEVEL"); text != "" {
		var level slog.Level
		if err := level.UnmarshalText([]byte(text)); err != nil {
			return nil, fmt.Errorf("COUNTERMAND_LOG_LEVEL %q: want debug, info, warn or error", text)
		}
		config.Level = level
	}
	if text := os.Getenv("COUNTERMAND_LOG_FORMAT"); text != "" {
		if err := config.Format.UnmarshalText([]byte(text)); err != nil {
			return nil, fmt.Errorf("COUNTERMAND_LOG_FORMAT %q: want auto, json or text", text)
		}
	}
	return telemetry.NewLogger(os.Stderr, config), nil
}

// DatabaseURL reads DATABASE_URL or DATABASE_URL_FILE; it is an error when both
// are empty.
func DatabaseURL() (string, error) {
	url, err := secretVariable("DATABASE_URL")
	if err == nil && url == "" {
		err = errors.New("DATABASE_URL is not set")
	}
	return url, err
}

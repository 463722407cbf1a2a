package wire

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/fx"
)

// Every role's graph is complete: fx finds a provider for whatever is asked for.
func TestGraphsAreComplete(t *testing.T) {
	process, err := NewProcess(t.Context(), "test", "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeProcess(process) })
	for _, role := range Roles() {
		t.Run(role, func(t *testing.T) {
			if err := fx.ValidateApp(options(Config{Role: role}, process), fx.Supply(&endpoint{})); err != nil {
				t.Error(err)
			}
		})
	}
	if err := fx.ValidateApp(options(Config{Role: "nobody"}, process)); err == nil {
		t.Error("an unknown role must be an error")
	}
}

func TestListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })

	t.Run("a taken default port gives way to the next free one, and the log says so", func(t *testing.T) {
		var log bytes.Buffer
		l, err := listen(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), "http", "", taken.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		if l.Addr().String() == taken.Addr().String() || !strings.Contains(log.String(), l.Addr().String()) {
			t.Errorf("listens on %s; log: %s", l.Addr(), &log)
		}
	})
	t.Run("a taken address that was asked for is an error", func(t *testing.T) {
		_, err := listen(t.Context(), slog.New(slog.DiscardHandler), "http", taken.Addr().String(), DefaultHTTPAddr)
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("got %v", err)
		}
	})
}

func TestSecretsAreKeptAndPrivate(t *testing.T) {
	dir := t.TempDir()
	first, err := LoadSecrets(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadSecrets(dir)
	if err != nil {
		t.Fatal(err)
	}
	if first.Operations == "" || first.Operations != second.Operations || first.Passwords["shop_order"] != second.Passwords["shop_order"] {
		t.Error("secrets must be the same at every start")
	}
	info, err := os.Stat(filepath.Join(dir, "secrets.json"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
}

func TestEnvironment(t *testing.T) {
	t.Run("everything that is missing is told at once", func(t *testing.T) {
		for _, name := range []string{"DATABASE_URL", "NATS_URL", "COUNTERMAND_SECRET"} {
			t.Setenv(name, "")
		}
		_, err := FromEnvironment(Gateway)
		for _, name := range []string{"DATABASE_URL", "NATS_URL", "COUNTERMAND_SECRET"} {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("error does not name %s: %v", name, err)
			}
		}
	})
	t.Run("a secret can come from a file, without its line break", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(file, []byte("0123456789abcdef\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("DATABASE_URL", "postgres://localhost/x")
		t.Setenv("NATS_URL", "nats://localhost")
		t.Setenv("COUNTERMAND_SECRET", "")
		t.Setenv("COUNTERMAND_SECRET_FILE", file)
		config, err := FromEnvironment(Gateway)
		if err != nil || string(config.Secret) != "0123456789abcdef" {
			t.Errorf("secret %q, error %v", config.Secret, err)
		}
	})
	t.Run("a secret given twice is an error", func(t *testing.T) {
		t.Setenv("DATABASE_URL", "postgres://localhost/x")
		t.Setenv("DATABASE_URL_FILE", "/nowhere")
		if _, err := FromEnvironment(Engine); err == nil || !strings.Contains(err.Error(), "keep one") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("services are told how to take commands in", func(t *testing.T) {
		for window, want := range map[string]time.Duration{"": inboxWindow, "forever": 0, "240h": 240 * time.Hour} {
			t.Setenv("COUNTERMAND_INBOX_WINDOW", window)
			t.Setenv("COUNTERMAND_CHECK_PAYLOADS", "true")
			if c, err := ConsumerFromEnvironment(); err != nil || c.InboxWindow != want || !c.CheckPayloads {
				t.Errorf("%q: %+v, %v", window, c, err)
			}
		}
		t.Setenv("COUNTERMAND_INBOX_WINDOW", "0s")
		t.Setenv("COUNTERMAND_CHECK_PAYLOADS", "perhaps")
		t.Setenv("COUNTERMAND_AI_CALL_EVENTS", "no")
		_, err := FromEnvironment(Order)
		for _, name := range []string{"COUNTERMAND_INBOX_WINDOW", "COUNTERMAND_CHECK_PAYLOADS", "COUNTERMAND_AI_CALL_EVENTS"} {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("error does not name %s: %v", name, err)
			}
		}
	})
	t.Run("a short gateway secret is an error", func(t *testing.T) {
		t.Setenv("DATABASE_URL", "postgres://localhost/x")
		t.Setenv("NATS_URL", "nats://localhost")
		t.Setenv("COUNTERMAND_SECRET", "short")
		if _, err := FromEnvironment(Gateway); err == nil || !strings.Contains(err.Error(), "16 bytes") {
			t.Errorf("got %v", err)
		}
	})
}

func TestBuiltInRoutesLoad(t *testing.T) {
	if _, err := loadTable(Config{Lookup: func(string) (string, bool) { return "", false }}); err != nil {
		t.Fatal(err)
	}
}

func TestDatabaseURLKeepsItsServer(t *testing.T) {
	for base, want := range map[string]string{
		"postgres://admin:pw@db:5432/postgres?sslmode=require": "postgres://u:p@db:5432/d?sslmode=require",
		"postgres://admin:pw@/postgres?host=%2Ftmp%2Fx":        "postgres://u:p@/d?host=%2Ftmp%2Fx",
	} {
		if got, err := withDatabase(base, "d", "u", "p"); err != nil || got != want {
			t.Errorf("withDatabase(%s) = %s, %v", base, got, err)
		}
	}
	if _, err := withDatabase("host=db user=admin", "d", "u", "p"); err == nil {
		t.Error("a keyword/value string must be an error")
	}
}

func TestMigrateRefusesARoleWithoutADatabase(t *testing.T) {
	if err := Migrate(t.Context(), Gateway, "postgres://localhost/x"); err == nil {
		t.Error("want an error")
	}
}

func TestBrokerEnvironment(t *testing.T) {
	clear := func(t *testing.T) {
		t.Helper()
		for _, variable := range os.Environ() {
			if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "KAFKA_") || name == "NATS_URL" || name == "COUNTERMAND_BROKER" {
				t.Setenv(name, "")
			}
		}
	}
	t.Run("it is NATS unless something else is said", func(t *testing.T) {
		clear(t)
		t.Setenv("NATS_URL", "nats://n:4222")
		c, err := BrokerFromEnvironment(false)
		if err != nil || c.Name != NATS || c.NATSURL != "nats://n:4222" {
			t.Errorf("%+v, %v", c, err)
		}
	})
	t.Run("Kafka needs its servers and nothing of NATS", func(t *testing.T) {
		clear(t)
		t.Setenv("COUNTERMAND_BROKER", "kafka")
		if _, err := BrokerFromEnvironment(false); err == nil || !strings.Contains(err.Error(), "KAFKA_BROKERS") || strings.Contains(err.Error(), "NATS") {
			t.Errorf("error = %v", err)
		}
		t.Setenv("KAFKA_BROKERS", "a:9092, b:9092")
		for embedded, replicas := range map[bool]int{true: 1, false: 3} {
			c, err := BrokerFromEnvironment(embedded)
			if err != nil || !slices.Equal(c.Kafka.Addrs, []string{"a:9092", "b:9092"}) || c.Kafka.Replicas != replicas || c.Kafka.TLS != nil || c.Kafka.Username != "" {
				t.Errorf("%+v, %v", c.Kafka, err)
			}
		}
	})
	t.Run("everything can be set", func(t *testing.T) {
		clear(t)
		password := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{
			"COUNTERMAND_BROKER": "kafka", "KAFKA_BROKERS": "a:9092", "KAFKA_USERNAME": "u", "KAFKA_PASSWORD_FILE": password, "KAFKA_TLS": "true",
			"KAFKA_SASL_MECHANISM": "SCRAM-SHA-256", "KAFKA_REPLICAS": "5", "KAFKA_MIN_IN_SYNC": "2", "KAFKA_RETENTION": "48h", "KAFKA_TOPIC_PREFIX": "staging.",
		} {
			t.Setenv(name, value)
		}
		c, err := BrokerFromEnvironment(false)
		k := c.Kafka
		if err != nil || k.Username != "u" || k.Password != "secret" || k.Mechanism != "SCRAM-SHA-256" || k.TLS == nil || k.TLS.InsecureSkipVerify ||
			k.Replicas != 5 || k.MinInSync != 2 || k.MaxAge != 48*time.Hour || k.TopicPrefix != "staging." {
			t.Errorf("%+v, %v", k, err)
		}
	})
	t.Run("everything that is wrong is told at once, and no password", func(t *testing.T) {
		clear(t)
		for name, value := range map[string]string{
			"COUNTERMAND_BROKER": "kafka", "KAFKA_USERNAME": "u", "KAFKA_TLS": "yes", "KAFKA_SASL_MECHANISM": "GSSAPI", "KAFKA_REPLICAS": "many",
			"KAFKA_RETENTION": "7 days", "KAFKA_TLS_CA": "hush, this is no certificate",
		} {
			t.Setenv(name, value)
		}
		_, err := BrokerFromEnvironment(false)
		for _, name := range []string{"KAFKA_BROKERS", "KAFKA_PASSWORD", "KAFKA_TLS", "KAFKA_SASL_MECHANISM", "KAFKA_REPLICAS", "KAFKA_RETENTION", "KAFKA_TLS_CA"} {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("error does not name %s: %v", name, err)
			}
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("the error tells a value that may be secret: %v", err)
		}
	})
	t.Run("what an ack is worth is stated, or known", func(t *testing.T) {
		for _, one := range []struct {
			set      map[string]string
			embedded bool
			want     string
		}{
			{map[string]string{"NATS_URL": "nats://n:4222"}, false, ""},
			{map[string]string{"NATS_URL": "nats://n:4222", "COUNTERMAND_DURABILITY": "replicated"}, false, "replicated"},
			{nil, true, "fsync"},
			{map[string]string{"COUNTERMAND_BROKER": "kafka", "KAFKA_BROKERS": "a:9092"}, false, "replicated"},
			{map[string]string{"COUNTERMAND_BROKER": "kafka", "KAFKA_BROKERS": "a:9092"}, true, "memory"},
		} {
			clear(t)
			t.Setenv("COUNTERMAND_DURABILITY", "")
			for name, value := range one.set {
				t.Setenv(name, value)
			}
			if c, err := BrokerFromEnvironment(one.embedded); err != nil || c.Durability != one.want {
				t.Errorf("%v, embedded %t: %q, %v", one.set, one.embedded, c.Durability, err)
			}
		}
		t.Setenv("COUNTERMAND_DURABILITY", "eternal")
		if _, err := BrokerFromEnvironment(true); err == nil || !strings.Contains(err.Error(), "fsync or replicated or memory") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("a broker that is none is an error", func(t *testing.T) {
		clear(t)
		t.Setenv("COUNTERMAND_BROKER", "rabbit")
		if _, err := BrokerFromEnvironment(true); err == nil || !strings.Contains(err.Error(), "nats or kafka") {
			t.Errorf("error = %v", err)
		}
	})
}

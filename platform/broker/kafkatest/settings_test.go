package kafkatest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/kafkabroker"
)

// makeTopic creates the topic as somebody else might have.
func makeTopic(t *testing.T, addr string, partitions int, settings map[string]string) {
	t.Helper()
	request := kmsg.NewPtrCreateTopicsRequest()
	request.TimeoutMillis = 10_000
	one := kmsg.NewCreateTopicsRequestTopic()
	one.Topic, one.NumPartitions, one.ReplicationFactor = string(topic), int32(partitions), 1
	for name, value := range settings {
		config := kmsg.NewCreateTopicsRequestTopicConfig()
		config.Name, config.Value = name, &value
		one.Configs = append(one.Configs, config)
	}
	request.Topics = append(request.Topics, one)
	answer, err := request.RequestWith(t.Context(), otherClient(t, addr))
	if err != nil || answer.Topics[0].ErrorCode != 0 {
		t.Fatalf("make a topic: %+v, %v", answer, err)
	}
}

func TestATopicThatWouldLoseMessagesIsRefusedWithEveryReason(t *testing.T) {
	s := start(t)
	makeTopic(t, s.Addr(), 4, map[string]string{
		"min.insync.replicas": "1", "retention.ms": "3600000", "retention.bytes": "1000000", "cleanup.policy": "compact",
		"unclean.leader.election.enable": "true", "max.message.bytes": "1000",
	})
	b := connect(t, s.Addr(), func(c *kafkabroker.Config) { c.Replicas, c.MinInSync = 3, 2 })
	err := b.Ensure(t.Context(), topic)
	for _, want := range []string{
		"4 partitions and this process wants 8", "1 replicas and 3 are asked for", "acked when 1 of its replicas", "min.insync.replicas=2",
		"keeps messages for 1h0m0s and 168h0m0s", "retention.ms=604800000", "beyond 1000000 bytes", "cleanup policy is compact",
		"lacks acked messages may become its leader", "batches of 1000 bytes", string(topic),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

func TestATopicOfOurOwnIsMadeSafe(t *testing.T) {
	s := start(t)
	ensure(t, connect(t, s.Addr()))
	request := kmsg.NewPtrDescribeConfigsRequest()
	resource := kmsg.NewDescribeConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, string(topic)
	request.Resources = append(request.Resources, resource)
	answer, err := request.RequestWith(t.Context(), otherClient(t, s.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, config := range answer.Resources[0].Configs {
		if config.Value != nil {
			got[config.Name] = *config.Value
		}
	}
	for name, want := range map[string]string{
		"min.insync.replicas": "1", "retention.ms": "604800000", "retention.bytes": "-1", "cleanup.policy": "delete",
		"unclean.leader.election.enable": "false", "max.message.bytes": "1114112",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if err := connect(t, s.Addr(), func(c *kafkabroker.Config) { c.MaxAge = 30 * 24 * time.Hour }).Ensure(t.Context(), topic); err == nil ||
		!strings.Contains(err.Error(), "168h0m0s and 720h0m0s are asked for") {
		t.Errorf("a topic that keeps messages for less than asked: %v", err)
	}
}

func TestMoreReplicasThanServersAreRefused(t *testing.T) {
	s := start(t)
	err := connect(t, s.Addr(), func(c *kafkabroker.Config) { c.Replicas = 3 }).Ensure(t.Context(), topic)
	if !errors.Is(err, broker.ErrUnavailable) || !strings.Contains(strings.ToLower(err.Error()), "replication") {
		t.Errorf("error = %v", err)
	}
}

func TestAPrefixKeepsInstallationsApart(t *testing.T) {
	s := start(t)
	one := plain(t, s.Addr(), func(c *kafkabroker.Config) { c.TopicPrefix = "one." })
	two := plain(t, s.Addr(), func(c *kafkabroker.Config) { c.TopicPrefix = "two." })
	publish(t, one, messages("a", 0, 3)...)
	publish(t, two, messages("a", 10, 12)...)
	wantLog(t, one, messages("a", 0, 3)...)
	wantLog(t, two, messages("a", 10, 12)...)
	first, second := subscribe(t, one, "g"), subscribe(t, two, "g")
	for n, group := range map[string]broker.Group{"a-0": first, "a-10": second} {
		if d := take(t, group); d.Event.ID != n || d.Topic != topic {
			t.Errorf("got %s of %s, want %s", d.Event.ID, d.Topic, n)
		}
	}
}

func TestSASLAndTLS(t *testing.T) {
	server, roots := certificates(t)
	for _, mechanism := range []string{kafkabroker.ScramSHA512, kafkabroker.ScramSHA256, kafkabroker.Plain} {
		t.Run(mechanism, func(t *testing.T) {
			f := fake(t, kfake.EnableSASL(), kfake.Superuser(mechanism, "shop", "pass é word"), kfake.TLS(server))
			login := func(password string) func(*kafkabroker.Config) {
				return func(c *kafkabroker.Config) {
					c.Username, c.Password, c.Mechanism = "shop", password, mechanism
					c.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
				}
			}
			b := plain(t, f.Addr(), login("pass é word"))
			publish(t, b, messages("a", 0, 3)...)
			wantLog(t, b, messages("a", 0, 3)...)
			ack(t, take(t, subscribe(t, b, "g")))

			for what, change := range map[string]func(*kafkabroker.Config){
				"a wrong password": login("wrong"),
				"no login":         func(c *kafkabroker.Config) { c.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12} },
				"no TLS": func(c *kafkabroker.Config) {
					login("pass é word")(c)
					c.TLS, c.Mechanism = nil, kafkabroker.ScramSHA512
				},
				"an unknown root": func(c *kafkabroker.Config) {
					login("pass é word")(c)
					c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
				},
			} {
				short := func(c *kafkabroker.Config) { c.Timeout = time.Second }
				if err := connect(t, f.Addr(), change, short).Ping(t.Context()); !errors.Is(err, broker.ErrUnavailable) || strings.Contains(err.Error(), "pass é word") {
					t.Errorf("%s: %v, want ErrUnavailable without the password", what, err)
				}
			}
		})
	}
}

func TestBadConfigs(t *testing.T) {
	for what, c := range map[string]kafkabroker.Config{
		"server addresses":           {},
		"host:port":                  {Addrs: []string{"kafka://a:1"}},
		"SASL mechanism":             {Addrs: []string{"a:1"}, Username: "u", Mechanism: "GSSAPI"},
		"password in the clear":      {Addrs: []string{"a:1"}, Username: "u", Mechanism: kafkabroker.Plain},
		"nothing could be published": {Addrs: []string{"a:1"}, Replicas: 2, MinInSync: 3},
		"shorter than the session":   {Addrs: []string{"a:1"}, SessionTimeout: time.Second, RebalanceGrace: time.Second},
		"topic prefix":               {Addrs: []string{"a:1"}, TopicPrefix: "a b"},
	} {
		if b, err := kafkabroker.New(c); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%+v gave %v, %v, want an error about %q", c, b, err, what)
		}
	}
}

// certificates returns what a server on loopback shows, and what clients trust.
func certificates(t *testing.T) (server *tls.Config, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kafka"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(certificate)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}, roots
}

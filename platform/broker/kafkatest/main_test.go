package kafkatest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker/brokertest"
	"github.com/countermand/countermand/platform/broker/kafkabroker"
	"github.com/countermand/countermand/platform/broker/kafkatest"
)

func TestMain(m *testing.M) {
	// Connections of readers that have been closed wait for their last answer.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/segmentio/kafka-go.(*conn).run"))
}

// sessionTimeout is how long a dead member keeps its partitions in these tests.
const sessionTimeout = 3 * time.Second

// server is what the tests start.
type server interface {
	Addr() string
	Stop() error
	Start() error
}

// realWanted reports whether to test on a real Kafka, as COUNTERMAND_TEST_KAFKA
// says with the value real. It cannot be had everywhere, so somebody must ask.
func realWanted() bool { return os.Getenv("COUNTERMAND_TEST_KAFKA") == "real" }

// start starts a server for a test. One that cannot be had fails the test.
func start(t *testing.T) server {
	t.Helper()
	if !realWanted() {
		fake, err := kafkatest.StartFake(t.TempDir(), 1)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = fake.Stop() })
		return fake
	}
	installation, err := kafkatest.Install(t.Context(), func(step string) { t.Log(step) })
	if err != nil {
		t.Fatal(err)
	}
	real, err := kafkatest.StartReal(t.Context(), installation, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = real.Stop() })
	return startable{real}
}

// startable starts without a context.
type startable struct{ *kafkatest.Real }

func (s startable) Start() error { return s.Real.Start(context.Background()) }

// connect returns a broker on a server.
func connect(t *testing.T, addr string, change ...func(*kafkabroker.Config)) *kafkabroker.Broker {
	t.Helper()
	config := kafkabroker.Config{
		Addrs: []string{addr}, SessionTimeout: sessionTimeout, DuplicateWindow: 2 * time.Minute,
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, one := range change {
		one(&config)
	}
	b, err := kafkabroker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// suiteServer is a Kafka as the suite wants it. Raw records come from another
// client than the one under test.
type suiteServer struct {
	server
	other *kgo.Client
}

func newSuiteServer(t *testing.T) brokertest.Server {
	t.Helper()
	s := start(t)
	return &suiteServer{server: s, other: otherClient(t, s.Addr())}
}

func otherClient(t *testing.T, addr string) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// Connect implements [brokertest.Server].
func (s *suiteServer) Connect(t *testing.T) brokertest.Client {
	t.Helper()
	line := &cuttable{}
	b := connect(t, s.Addr(), func(c *kafkabroker.Config) { c.Dial = line.dial })
	return brokertest.Client{Broker: b, Kill: line.cut}
}

// Stop implements [brokertest.Server].
func (s *suiteServer) Stop(t *testing.T) {
	t.Helper()
	if err := s.server.Stop(); err != nil {
		t.Fatal(err)
	}
}

// Start implements [brokertest.Server].
func (s *suiteServer) Start(t *testing.T) {
	t.Helper()
	if err := s.server.Start(); err != nil {
		t.Fatal(err)
	}
}

// Remove implements [brokertest.Server].
func (s *suiteServer) Remove(t *testing.T, topic events.Topic) {
	t.Helper()
	request := kmsg.NewPtrDeleteTopicsRequest()
	request.TimeoutMillis = 10_000
	request.TopicNames = []string{string(topic)}
	named := kmsg.NewDeleteTopicsRequestTopic()
	named.Topic = new(string(topic))
	request.Topics = append(request.Topics, named)
	answer, err := request.RequestWith(t.Context(), s.other)
	if err != nil || answer.Topics[0].ErrorCode != 0 {
		t.Fatalf("remove %s: %+v, %v", topic, answer, err)
	}
	// A real server learns of it from its controller, and until then tells of the topic
	// as if it were there: Ensure would find nothing to do.
	ask := kmsg.NewPtrMetadataRequest()
	about := kmsg.NewMetadataRequestTopic()
	about.Topic = new(string(topic))
	ask.Topics = append(ask.Topics, about)
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		answer, err := ask.RequestWith(t.Context(), s.other)
		if err == nil && answer.Topics[0].ErrorCode == kerr.UnknownTopicOrPartition.Code {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is still there: %+v, %v", topic, answer, err)
		}
	}
}

// PutRaw implements [brokertest.Server].
func (s *suiteServer) PutRaw(t *testing.T, topic events.Topic, partition int, headers []brokertest.Header, data []byte) {
	t.Helper()
	record := &kgo.Record{Topic: string(topic), Partition: int32(partition), Value: data}
	for _, header := range headers {
		record.Headers = append(record.Headers, kgo.RecordHeader{Key: header.Name, Value: []byte(header.Value)})
	}
	if err := s.other.ProduceSync(t.Context(), record).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// cuttable is a way to a server that can be cut.
type cuttable struct {
	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

var errCut = errors.New("the line is cut")

func (c *cuttable) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isCut {
		return nil, errors.Join(errCut, conn.Close())
	}
	c.conns = append(c.conns, conn)
	return conn, nil
}

func (c *cuttable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isCut = true
	for _, conn := range c.conns {
		_ = conn.Close() // it may be closed already
	}
}

// mend lets connections through again. Those that were cut stay so.
func (c *cuttable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isCut = false
}

func TestBroker(t *testing.T) {
	brokertest.Run(t, brokertest.Promises{TakeOver: sessionTimeout, AttemptsPerMember: true, Outage: outage(t)}, newSuiteServer)
}

// outage returns how long the server is away: COUNTERMAND_TEST_OUTAGE asks for
// more than the suite's own choice.
func outage(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("COUNTERMAND_TEST_OUTAGE")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(fmt.Errorf("COUNTERMAND_TEST_OUTAGE: %w", err))
	}
	return d
}

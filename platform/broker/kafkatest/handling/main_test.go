package handling

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/kafkabroker"
	"github.com/countermand/countermand/platform/broker/kafkatest"
	"github.com/countermand/countermand/platform/consumer"
	"github.com/countermand/countermand/platform/consumer/consumertest"
	"github.com/countermand/countermand/platform/deadletter"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
)

// addr is the Kafka that the tests share: withkafka's, or a fake of their own.
var addr string

func TestMain(m *testing.M) {
	if addr = os.Getenv("COUNTERMAND_TEST_KAFKA_BROKERS"); addr == "" {
		dir, err := os.MkdirTemp("", "countermand-fake-")
		if err == nil {
			var fake *kafkatest.Fake
			if fake, err = kafkatest.StartFake(dir, 1); err == nil {
				addr = fake.Addr()
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	embeddedtest.Main(m)
}

// connect returns a broker whose topics are the test's own, and their prefix.
func connect(t *testing.T) (b *kafkabroker.Broker, prefix string) {
	t.Helper()
	prefix = "t" + strings.ReplaceAll(events.NewID(), "-", "") + "."
	b, err := kafkabroker.New(kafkabroker.Config{
		Addrs: []string{addr}, TopicPrefix: prefix, Partitions: 4, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b, prefix
}

// limit sets the largest message that the topic takes, and waits until the server
// takes a message with that fill or refuses it. A real one needs a moment.
func (s *shop) limit(bytes, fill string, taken bool) {
	t := s.T
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	request := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, s.prefix+string(paint.Topic())
	config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	config.Name, config.Value = "max.message.bytes", &bytes
	resource.Configs = append(resource.Configs, config)
	request.Resources = append(request.Resources, resource)
	answer, err := request.RequestWith(t.Context(), client)
	if err != nil || answer.Resources[0].ErrorCode != 0 {
		t.Fatalf("%+v, %v", answer, err)
	}
	probe := consumertest.Command(t, paint, "probe", part{Fill: fill})
	probe.Type = "test.part.probe.v1" // which nobody handles
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		receipt := s.Broker.PublishBatch(t.Context(), []broker.Message{{Topic: paint.Topic(), PublishID: events.NewID(), Event: probe}})[0]
		if taken && receipt.Err == nil || errors.Is(receipt.Err, broker.ErrRejected) && !taken {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("a limit of %s bytes has no effect: %v", bytes, receipt.Err)
		}
	}
}

type part struct {
	Name string `json:"name"`
	Fill string `json:"fill,omitempty"`
}

var paint = events.NewCommand[part, part]("test.part.paint.v1")

// shop paints parts, and fails for those that it is told.
type shop struct {
	*consumertest.Rig
	store  *deadletter.Store
	prefix string

	mu     sync.Mutex
	faults map[string]error
}

func open(t *testing.T, config consumertest.Config) *shop {
	t.Helper()
	b, prefix := connect(t)
	s := &shop{prefix: prefix, faults: make(map[string]error)}
	config.Name, config.Broker = "paint", b
	config.Handlers = func(r *consumertest.Rig) []consumer.Handler {
		if _, err := r.Pool.Exec(t.Context(), "create table painted (id bigint generated always as identity, name text)"); err != nil {
			t.Fatal(err)
		}
		return []consumer.Handler{consumer.Handle(paint, s.paint)}
	}
	s.Rig = consumertest.New(t, config)
	s.store = deadletter.NewStore("paint", s.Pool)
	return s
}

func (s *shop) paint(ctx context.Context, tx pgx.Tx, p part) (part, error) {
	s.mu.Lock()
	fault := s.faults[p.Name]
	s.mu.Unlock()
	if fault != nil {
		return p, fault
	}
	_, err := tx.Exec(ctx, "insert into painted (name) values ($1)", p.Name)
	return p, err
}

// fail makes a part fail, and mends it with nil.
func (s *shop) fail(name string, fault error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[name] = fault
}

func (s *shop) send(key string, names ...string) (commands []events.Event) {
	s.T.Helper()
	for _, name := range names {
		e := consumertest.Command(s.T, paint, key, part{Name: name})
		s.Send(e)
		commands = append(commands, e)
	}
	return commands
}

// wantPainted waits until that many parts are painted, and fails the test when they
// are others or in another order.
func (s *shop) wantPainted(want ...string) {
	s.T.Helper()
	s.Await(len(want), "select count(*) from painted")
	if got := consumertest.Read[string](s.Rig, "select coalesce(string_agg(name, ' ' order by id), '') from painted"); got != strings.Join(want, " ") {
		s.T.Errorf("painted %s, want %s", got, strings.Join(want, " "))
	}
}

// letters waits for n letters and returns them, the newest first.
func (s *shop) letters(n int) []deadletter.Summary {
	s.T.Helper()
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		all, err := s.store.List(s.T.Context(), deadletter.Filter{}, 0, 100)
		if err != nil {
			s.T.Fatal(err)
		}
		if len(all) == n {
			return all
		}
		if time.Now().After(limit) {
			s.T.Fatalf("%d letters, want %d: %+v", len(all), n, all)
		}
	}
}

func (s *shop) redrive(l deadletter.Summary) {
	s.T.Helper()
	_, id, _ := deadletter.ParseID(l.ID)
	if _, err := s.store.Redrive(s.T.Context(), id, deadletter.Order{By: "ada", Reason: "ticket 1"}); err != nil {
		s.T.Fatal(err)
	}
}

// replay gives an order for what the topic holds, as a dry run has counted it.
func (s *shop) replay(r deadletter.Replay) deadletter.BulkCount {
	s.T.Helper()
	r.Consumer, r.Topic, r.Rate = "paint", paint.Topic(), 1000
	var count deadletter.BulkCount
	for _, dry := range []bool{true, false} {
		r.Order = deadletter.Order{By: "ada", Reason: "ticket 1", DryRun: dry}
		r.Expected = count.Selected
		var err error
		if count, err = s.store.Replay(s.T.Context(), s.Broker, r, func(int) {}, func(deadletter.ReplayItem) {}); err != nil {
			s.T.Fatal(err)
		}
	}
	return count
}

// ago is a time before everything that a test has done.
func ago() time.Time { return time.Now().Add(-time.Hour) }

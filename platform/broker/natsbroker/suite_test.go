package natsbroker

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker/brokertest"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
)

func TestBroker(t *testing.T) {
	brokertest.Run(t, brokertest.Promises{TakeOver: suiteAckWait}, func(t *testing.T) brokertest.Server {
		t.Helper()
		server, conn := newRestartable(t)
		b, err := New(conn, Config{})
		if err != nil {
			t.Fatal(err)
		}
		return &suiteServer{RestartableNATS: server, broker: b}
	})
}

const suiteAckWait = 2 * time.Second

// suiteServer is a JetStream server as the suite wants it.
type suiteServer struct {
	*embeddedtest.RestartableNATS
	broker *Broker // for what clients cannot do
}

// Connect implements [brokertest.Server].
func (s *suiteServer) Connect(t *testing.T) brokertest.Client {
	t.Helper()
	conn := s.RestartableNATS.Connect(t)
	b, err := New(conn, Config{})
	if err != nil {
		t.Fatal(err)
	}
	b.ackWait = suiteAckWait
	return brokertest.Client{Broker: b, Kill: conn.Close}
}

// Stop implements [brokertest.Server].
func (s *suiteServer) Stop(*testing.T) { s.RestartableNATS.Stop() }

// Start implements [brokertest.Server].
func (s *suiteServer) Start(t *testing.T) {
	t.Helper()
	s.RestartableNATS.Start(t)
}

// Remove implements [brokertest.Server]: the stream goes, with its other topics.
func (s *suiteServer) Remove(t *testing.T, topic events.Topic) {
	t.Helper()
	if err := s.broker.js.DeleteStream(t.Context(), streamName(topic.Domain())); err != nil {
		t.Fatal(err)
	}
}

// PutRaw implements [brokertest.Server].
func (s *suiteServer) PutRaw(t *testing.T, topic events.Topic, partition int, headers []brokertest.Header, data []byte) {
	t.Helper()
	msg := &nats.Msg{Subject: subject(topic, partition), Header: make(nats.Header), Data: data}
	for _, header := range headers {
		msg.Header[header.Name] = append(msg.Header[header.Name], header.Value)
	}
	if _, err := s.broker.conn.RequestMsgWithContext(t.Context(), msg); err != nil {
		t.Fatal(err)
	}
}

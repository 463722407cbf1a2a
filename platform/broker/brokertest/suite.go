package brokertest

import (
	"testing"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Server is a server under test. Its methods fail the test they are given when
// they cannot do what they say.
type Server interface {
	// Connect returns a client of its own, as another process would have it. It is
	// closed when the test ends.
	Connect(t *testing.T) Client
	// Stop makes the server go away, and Start brings it back with what it had.
	Stop(t *testing.T)
	Start(t *testing.T)
	// Remove removes a topic with everything in it.
	Remove(t *testing.T, topic events.Topic)
	// PutRaw stores a message with those headers, which need not be an event.
	PutRaw(t *testing.T, topic events.Topic, partition int, headers []Header, data []byte)
}

// Client is a broker whose way to the server can be cut.
type Client struct {
	broker.Broker
	// Kill makes the client die without a word, as kill -9 does: the server hears
	// no more of it.
	Kill func()
}

// Header of a raw message.
type Header struct{ Name, Value string }

// Promises are what a broker may keep in more than one way. The zero value is the
// strictest.
type Promises struct {
	// TakeOver is how long a member that is dead may keep its messages: 10 s by
	// default.
	TakeOver time.Duration
	// AttemptsPerMember says that a new member counts attempts from one again.
	AttemptsPerMember bool
	// Outage is how long the server is away in the test of an outage: 2 s by default.
	Outage time.Duration
}

// Run runs the suite. start is called once.
func Run(t *testing.T, promises Promises, start func(t *testing.T) Server) {
	t.Helper()
	if promises.TakeOver == 0 {
		promises.TakeOver = 10 * time.Second
	}
	if promises.Outage == 0 {
		promises.Outage = 2 * time.Second
	}
	s := &suite{server: start(t), promises: promises}
	t.Run("topics", s.topics)
	t.Run("publishing", s.publishing)
	t.Run("copies", s.copies)
	t.Run("round trips", s.roundTrips)
	t.Run("poison", s.poison)
	t.Run("reading", s.reading)
	t.Run("replay", s.replay)
	t.Run("backlog", s.backlog)
	t.Run("bounds", s.bounds)
	t.Run("lookup", s.lookup)
	t.Run("groups", s.groups)
	t.Run("crashes", s.crashes)
	t.Run("outage", s.outage)
}

type suite struct {
	server   Server
	promises Promises
}

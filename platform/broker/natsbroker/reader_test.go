package natsbroker

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/embedded/embeddedtest"
)

func TestReader(t *testing.T) {
	t.Run("a partition that is far behind does not replay the others", func(t *testing.T) {
		b, _ := open(t, Config{})
		busy := publish(t, b, messages("a", sectionSpan+10)...)
		last := busy[len(busy)-1]
		other := broker.Partition("c", b.Partitions())
		consumed := make(chan uint64, 1)
		reader := read(t, b, map[int]broker.Start{last.Partition: {After: last.Offset}, other: {}})
		publish(t, b, message("c", 1), message("a", sectionSpan+10))
		got := next(t, reader, 2)
		slices.SortFunc(got, func(x, y broker.Delivery) int { return int(x.Offset) - int(y.Offset) })
		if !slices.Equal(ids(got), []string{"c-1", fmt.Sprint("a-", sectionSpan+10)}) {
			t.Errorf("got %v", ids(got))
		}
		go func() { consumed <- delivered(t, b) }()
		if n := <-consumed; n != 2 {
			t.Errorf("the server sent %d messages for 2", n)
		}
	})
	t.Run("what is no CloudEvent is delivered as such, in its place", func(t *testing.T) {
		b, conn := open(t, Config{})
		partition := broker.Partition("a", b.Partitions())
		for i, header := range []nats.Header{
			nil, {"ce-id": {"1"}}, {"ce-id": {"%zz"}}, {"ce-specversion": {"1.0"}, "ce-id": {"1", "2"}, "ce-source": {"/s"}, "ce-type": {"t"}},
		} {
			msg := &nats.Msg{Subject: subject(topic, partition), Header: header, Data: fmt.Append(nil, "raw ", i)}
			if _, err := conn.RequestMsgWithContext(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
		}
		publish(t, b, message("a", 1))
		got := next(t, read(t, b, everything(b)), 5)
		for i, d := range got[:4] {
			if d.Malformed == nil || string(d.Event.Data) != fmt.Sprint("raw ", i) || d.Event.ID == "" || d.Offset != uint64(i+1) || d.Partition != partition {
				t.Errorf("delivery %d: %+v", i, d)
			}
		}
		if d := got[4]; d.Malformed != nil || d.Event.ID != "a-1" {
			t.Errorf("the event behind them: %+v", d)
		}
	})
	t.Run("a server that starts again is read on from, once and in order", func(t *testing.T) {
		server, conn := newRestartable(t)
		b := on(t, conn, Config{})
		publish(t, b, messages("a", 100)...)
		reader := read(t, b, everything(b))
		got := next(t, reader, 40)
		server.Stop()
		server.Start(t)
		reader2 := read(t, b, everything(b)) // opened while the first one heals
		publish(t, b, messages("a", 150)[100:]...)
		got = append(got, next(t, reader, 110)...)
		if want := keyIDs("a", 0, 150); !slices.Equal(ids(got), want) {
			t.Errorf("got %v", ids(got))
		}
		if got := ids(next(t, reader2, 150)); !slices.Equal(got, keyIDs("a", 0, 150)) {
			t.Errorf("second reader got %v", got)
		}
	})
	for what, after := range map[string]func(t *testing.T, b *Broker, line *cutLine){
		// Nothing follows them that could show the gap.
		"with their connection": func(t *testing.T, _ *Broker, line *cutLine) {
			t.Helper()
			line.cut()
		},
		"before a later one": func(t *testing.T, b *Broker, line *cutLine) {
			t.Helper()
			line.release()
			publish(t, b, message("a", 4))
		},
	} {
		t.Run("messages that are lost "+what+" come again", func(t *testing.T) {
			server, publishing := newRestartable(t)
			b := on(t, publishing, Config{})
			line := &cutLine{server: server}
			conn, err := nats.Connect("", nats.InProcessServer(line), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			reader := read(t, on(t, conn, Config{}), everything(b))
			publish(t, b, message("a", 0))
			next(t, reader, 1)
			line.hold()
			publish(t, b, messages("a", 4)[1:]...)
			for delivered(t, b) < 4 { // until the server believes that they have arrived
				if t.Failed() {
					return
				}
			}
			begin := time.Now()
			after(t, b, line)
			if got := ids(next(t, reader, 3)); !slices.Equal(got, keyIDs("a", 1, 4)) {
				t.Errorf("got %v", got)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("they came after %s: only the missing heartbeat was noticed", took)
			}
		})
	}
	t.Run("a closed connection ends it", func(t *testing.T) {
		b, conn := open(t, Config{})
		reader := read(t, b, everything(b))
		conn.Close()
		if got, err := reader.Next(t.Context(), 10); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("Next = %v, %v, want ErrUnavailable", got, err)
		}
	})
	t.Run("it closes at once though the server is away, and Next says so", func(t *testing.T) {
		server, conn := newRestartable(t)
		b := on(t, conn, Config{Timeout: time.Hour})
		reader, err := b.Read(t.Context(), topic, everything(b))
		if err != nil {
			t.Fatal(err)
		}
		server.Stop()
		begin := time.Now()
		reader.Close()
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("closing took %s", took)
		}
		if _, err := reader.Next(t.Context(), 1); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("Next after Close = %v", err)
		}
		server.Start(t)
	})
}

// delivered returns how many messages the server has sent to the consumers there are.
func delivered(t *testing.T, b *Broker) (n uint64) {
	t.Helper()
	stream, err := b.js.Stream(t.Context(), streamName(topic.Domain()))
	if err != nil {
		t.Error(err)
		return 0
	}
	for info := range stream.ListConsumers(t.Context()).Info() {
		n += info.Delivered.Consumer
	}
	return n
}

// cutLine is a way into a server whose newest connection can be held, so that
// nothing arrives any more, and cut.
type cutLine struct {
	server *embeddedtest.RestartableNATS

	mu   sync.Mutex
	conn *heldConn
}

func (l *cutLine) InProcessConn() (net.Conn, error) {
	conn, err := l.server.InProcessConn()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = &heldConn{Conn: conn}
	return l.conn, err
}

func (l *cutLine) hold()    { l.conn.held.Store(true) }
func (l *cutLine) release() { l.conn.held.Store(false) }
func (l *cutLine) cut()     { _ = l.conn.Close() }

// heldConn swallows what arrives while it is held.
type heldConn struct {
	net.Conn
	held atomic.Bool
}

func (c *heldConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.held.Load() {
			return n, err
		}
	}
}

func TestTail(t *testing.T) {
	tail := func(t *testing.T, b *Broker) broker.Reader {
		t.Helper()
		reader, err := b.Tail(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(reader.Close)
		return reader
	}
	t.Run("it delivers what is published from now on, from every partition", func(t *testing.T) {
		b, _ := open(t, Config{})
		publish(t, b, messages("before", 10)...)
		reader := tail(t, b)
		var want []string
		for n := range 20 {
			publish(t, b, message(fmt.Sprint("key", n), n))
			want = append(want, fmt.Sprintf("key%d-%d", n, n))
		}
		if got := ids(next(t, reader, 20)); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	t.Run("it misses nothing though the server goes away before the first message", func(t *testing.T) {
		server, conn := newRestartable(t)
		b := on(t, conn, Config{})
		publish(t, b, message("before", 0))
		reader := tail(t, b)
		server.Stop()
		server.Start(t)
		publish(t, b, messages("a", 5)...)
		if got := ids(next(t, reader, 5)); !slices.Equal(got, keyIDs("a", 0, 5)) {
			t.Errorf("got %v", got)
		}
	})
}

func TestSections(t *testing.T) {
	type want struct {
		next       uint64
		partitions []int
	}
	for what, one := range map[string]struct {
		from map[int]broker.Start
		want []want
	}{
		"all anew":            {map[int]broker.Start{0: {}, 1: {}, 2: {}}, []want{{1, []int{0, 1, 2}}}},
		"near each other":     {map[int]broker.Start{0: {After: 100}, 1: {After: 100 + sectionSpan}}, []want{{101, []int{0, 1}}}},
		"one far behind":      {map[int]broker.Start{0: {After: 100 + sectionSpan + 1}, 1: {After: 100}}, []want{{101, []int{1}}, {101 + sectionSpan + 1, []int{0}}}},
		"a chain of distance": {map[int]broker.Start{0: {}, 1: {After: 3000}, 2: {After: 6000}, 3: {After: 9000}}, []want{{1, []int{0, 1}}, {6001, []int{2, 3}}}},
	} {
		var got []want
		for _, s := range sections(one.from) {
			part := want{next: s.next}
			for partition := range b8 {
				if start, ok := s.from[partition]; ok {
					part.partitions = append(part.partitions, partition)
					if start != one.from[partition] {
						t.Errorf("%s: partition %d begins after %d", what, partition, start.After)
					}
				}
			}
			got = append(got, part)
		}
		if !reflect.DeepEqual(got, one.want) {
			t.Errorf("%s: got %v, want %v", what, got, one.want)
		}
	}
}

const b8 = 8

package kafkatest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/kafkabroker"
)

// A server that answers when its leader alone has a batch loses it with the leader.
func TestAllReplicasMustHaveABatch(t *testing.T) {
	f := fake(t)
	b := plain(t, f.Addr())
	var mu sync.Mutex
	acks := make(map[int16]int)
	f.Cluster().ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		f.Cluster().KeepControl()
		mu.Lock()
		defer mu.Unlock()
		acks[request.(*kmsg.ProduceRequest).Acks]++
		return nil, nil, false
	})
	publish(t, b, message("a", 0))
	publish(t, b, slices.Concat(messages("a", 1, 30), messages("c", 0, 30))...)
	mu.Lock()
	defer mu.Unlock()
	const all = -1
	if len(acks) != 1 || acks[all] < 2 {
		t.Errorf("requests by the acks they ask for: %v, want all of them to ask for %d", acks, all)
	}
}

// What a server answers without saying whether the batch is stored, or that it is
// not yet: the same bytes are sent again, and are stored once.
func TestALostAckLeavesOneRecord(t *testing.T) {
	for _, fault := range []*kerr.Error{
		kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend, // it is stored
		kerr.NotEnoughReplicas, kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.CorruptMessage, kerr.KafkaStorageError, // it is not
	} {
		t.Run(fault.Message, func(t *testing.T) {
			f := fake(t)
			b := plain(t, f.Addr())
			publish(t, b, messages("a", 0, 5)...)
			injected := f.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: fault, Count: 2})
			all := messages("a", 5, 25)
			for i, receipt := range publish(t, b, all...) {
				if receipt.Duplicate {
					t.Errorf("message %d is called a copy", i)
				}
				if d, err := b.Lookup(t.Context(), topic, receipt.Partition, receipt.Offset); err != nil || d.Event.ID != all[i].Event.ID {
					t.Errorf("message %d is not where its receipt says: %s, %v", i, d.Event.ID, err)
				}
			}
			if injected.Hits() != 2 {
				t.Fatalf("the fault came %d times", injected.Hits())
			}
			publish(t, b, messages("a", 25, 30)...)
			wantLog(t, b, messages("a", 0, 30)...)
		})
	}
}

// A caller that has given up and publishes again is answered by what it published
// first, though this is another batch with other messages in it.
func TestWhoPublishesAgainAfterALostAckGetsTheFirstCopy(t *testing.T) {
	f := fake(t)
	b := plain(t, f.Addr())
	publish(t, b, messages("a", 0, 3)...)
	lost := f.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: -1})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for i, receipt := range b.PublishBatch(ctx, messages("a", 3, 10)) {
		if !errors.Is(receipt.Err, broker.ErrUnavailable) || receipt.Offset != 0 {
			t.Errorf("message %d: %+v, want ErrUnavailable", i, receipt)
		}
	}
	lost.Remove()
	for i, receipt := range publish(t, b, messages("a", 5, 15)...) {
		if want := i < 5; receipt.Duplicate != want || receipt.Offset != uint64(i+6) {
			t.Errorf("message %d: %+v", i+5, receipt)
		}
	}
	wantLog(t, b, messages("a", 0, 15)...)
}

// A batch that nobody asks for any more may still be on its way. It must not be
// stored behind what was published after it.
func TestABatchThatWasGivenUpIsNotStoredBehindLaterOnes(t *testing.T) {
	f := fake(t)
	line := &slowLine{}
	b := plain(t, f.Addr(), func(c *kafkabroker.Config) { c.Dial = line.dial })
	publish(t, b, messages("a", 0, 3)...)
	line.hold()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for i, receipt := range b.PublishBatch(ctx, messages("a", 3, 6)) {
		if !errors.Is(receipt.Err, broker.ErrUnavailable) {
			t.Errorf("message %d: %+v, want ErrUnavailable", i, receipt)
		}
	}
	line.pass()
	publish(t, b, messages("a", 10, 13)...)
	produced := f.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Observe: true, Count: -1})
	if held := line.release(); held == 0 {
		t.Fatal("nothing was on its way")
	}
	wait, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if err := produced.Wait(wait, 1); err != nil { // the late batch has arrived
		t.Fatal(err)
	}
	publish(t, b, messages("a", 13, 16)...)
	wantLog(t, b, slices.Concat(messages("a", 0, 3), messages("a", 10, 16))...)
}

// Neither may it take their place: with its sequence numbers they would pass for
// copies of it, and never be stored.
func TestABatchThatWasGivenUpSwallowsNoLaterOnes(t *testing.T) {
	f := fake(t)
	b := plain(t, f.Addr())
	publish(t, b, messages("a", 0, 3)...)
	lost := f.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: -1})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	for i, receipt := range b.PublishBatch(ctx, messages("a", 3, 6)) {
		if !errors.Is(receipt.Err, broker.ErrUnavailable) {
			t.Errorf("message %d: %+v, want ErrUnavailable", i, receipt)
		}
	}
	lost.Remove()
	for i, receipt := range publish(t, b, messages("a", 10, 13)...) {
		if receipt.Duplicate || receipt.Offset != uint64(i+7) {
			t.Errorf("message %d: %+v", i+10, receipt)
		}
	}
	wantLog(t, b, slices.Concat(messages("a", 0, 6), messages("a", 10, 13))...)
}

// A server that has lost what it knew of a producer is dealt with.
func TestAProducerThatIsForgottenBeginsAnew(t *testing.T) {
	for _, fault := range []*kerr.Error{kerr.UnknownProducerID, kerr.OutOfOrderSequenceNumber, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping} {
		t.Run(fault.Message, func(t *testing.T) {
			f := fake(t)
			b := plain(t, f.Addr())
			publish(t, b, messages("a", 0, 5)...)
			f.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: fault, Count: 1})
			publish(t, b, slices.Concat(messages("a", 5, 10), messages("c", 0, 3))...)
			publish(t, b, messages("a", 10, 15)...)
			wantLog(t, b, slices.Concat(messages("a", 0, 15), messages("c", 0, 3))...)
		})
	}
}

// A topic may take less than this package sends, when somebody else has made it.
func TestAMessageThatTheTopicRefusesIsRejectedAlone(t *testing.T) {
	f := fake(t)
	b := plain(t, f.Addr())
	limit := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, string(topic)
	config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	config.Name, config.Value = "max.message.bytes", new("2000")
	resource.Configs = append(resource.Configs, config)
	limit.Resources = append(limit.Resources, resource)
	if _, err := limit.RequestWith(t.Context(), otherClient(t, f.Addr())); err != nil {
		t.Fatal(err)
	}
	all := messages("a", 0, 20)
	all[12].Event.Data = make([]byte, 3000)
	for i, receipt := range b.PublishBatch(t.Context(), all) {
		switch {
		case i < 12 && receipt.Err != nil:
			t.Errorf("message %d before it: %v", i, receipt.Err)
		case i == 12 && !errors.Is(receipt.Err, broker.ErrRejected):
			t.Errorf("the message: %v, want ErrRejected", receipt.Err)
		case i > 12 && !errors.Is(receipt.Err, broker.ErrUnavailable):
			t.Errorf("message %d after it: %v, want ErrUnavailable", i, receipt.Err)
		}
	}
	wantLog(t, b, all[:12]...)
}

func TestLeadersMayMove(t *testing.T) {
	f := fakeOf(t, 3)
	b := plain(t, f.Addr())
	reader, err := b.Read(t.Context(), topic, everything(b))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	keys := []string{"a", "b", "c", "d", "e", "f", "g"}
	got := make(map[string][]string)
	var want []broker.Message
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for round := range 4 {
		var batch []broker.Message
		for _, key := range keys {
			batch = append(batch, messages(key, round*10, round*10+10)...)
		}
		publish(t, b, batch...)
		want = append(want, batch...)
		for read := 0; read < len(batch); {
			deliveries, err := reader.Next(ctx, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range deliveries {
				got[d.Event.PartitionKey] = append(got[d.Event.PartitionKey], d.Event.ID)
			}
			read += len(deliveries)
		}
		f.Cluster().ShufflePartitionLeaders()
	}
	for _, key := range keys {
		if !slices.Equal(got[key], ids(messages(key, 0, 40))) {
			t.Errorf("%s came as %v", key, got[key])
		}
	}
	wantLog(t, b, want...)
}

// What a reader has fetched and not handed over yet is neither lost nor doubled
// when it has to begin anew.
func TestLeadersMayMoveUnderASlowReader(t *testing.T) {
	f := fakeOf(t, 3)
	b := plain(t, f.Addr())
	keys := []string{"a", "b", "c", "d", "e", "f", "g"}
	const each = 600 // together more than a reader holds
	for _, key := range keys {
		publish(t, b, messages(key, 0, each)...)
	}
	reader, err := b.Read(t.Context(), topic, everything(b))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := make(map[string][]string)
	for total := 0; total < len(keys)*each; {
		deliveries, err := reader.Next(ctx, 300)
		if err != nil {
			t.Fatalf("after %d: %v", total, err)
		}
		for _, d := range deliveries {
			got[d.Event.PartitionKey] = append(got[d.Event.PartitionKey], d.Event.ID)
		}
		if total += len(deliveries); total%4 == 0 {
			f.Cluster().ShufflePartitionLeaders()
			time.Sleep(100 * time.Millisecond) // the reader has filled its queue, and finds out elsewhere
		}
	}
	for _, key := range keys {
		if !slices.Equal(got[key], ids(messages(key, 0, each))) {
			t.Errorf("of %s came %d: %v", key, len(got[key]), got[key])
		}
	}
}

func TestAServerThatComesLateIsWaitedFor(t *testing.T) {
	f := fake(t)
	if err := f.Stop(); err != nil {
		t.Fatal(err)
	}
	b := connect(t, f.Addr())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := b.Ensure(ctx, topic); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Ensure = %v, want ErrUnavailable", err)
	}
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; {
		err := b.Ensure(t.Context(), topic)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	publish(t, b, message("a", 1))
}

// A cluster with much to do makes topics in its own time, and its answers may come
// when nobody waits for them any more.
func TestABusyClusterMakesTopicsInItsOwnTime(t *testing.T) {
	t.Parallel()
	const timeout = 100 * time.Millisecond
	for _, key := range []kmsg.Key{kmsg.Metadata, kmsg.CreateTopics, kmsg.DescribeConfigs} {
		t.Run(key.Name(), func(t *testing.T) {
			t.Parallel()
			f := fake(t)
			b := connect(t, f.Addr(), func(c *kafkabroker.Config) { c.Timeout = timeout })
			held := false
			f.Cluster().ControlKey(key.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
				if !held {
					held = true
					time.Sleep(2 * timeout)
				}
				return nil, nil, false
			})
			ensure(t, b)
			publish(t, b, message("a", 1))
		})
	}
}

// slowLine is a way to a server on which bytes can be held.
type slowLine struct {
	mu    sync.Mutex
	holds bool
	conns []*slowConn
}

type slowConn struct {
	net.Conn
	line *slowLine

	held   []byte
	closed bool
}

func (l *slowLine) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	slow := &slowConn{Conn: conn, line: l}
	l.conns = append(l.conns, slow)
	return slow, nil
}

// Write holds a Produce request that begins while the line holds, and what follows it
// on its connection. Other requests pass: the client may need a new connection, and
// its handshake with it, to have a batch on its way at all.
func (c *slowConn) Write(p []byte) (int, error) {
	c.line.mu.Lock()
	defer c.line.mu.Unlock()
	if len(c.held) > 0 || c.line.holds && produces(p) {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// produces reports whether what is written begins a Produce request: its length in
// four bytes, then its kind in two.
func produces(p []byte) bool {
	return len(p) >= 6 && kmsg.Key(binary.BigEndian.Uint16(p[4:])) == kmsg.Produce
}

// Close leaves a connection open that has something on its way.
func (c *slowConn) Close() error {
	c.line.mu.Lock()
	defer c.line.mu.Unlock()
	c.closed = true
	if len(c.held) > 0 {
		return c.SetReadDeadline(time.Now()) // the reader is told all the same
	}
	return c.Conn.Close()
}

func (l *slowLine) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds = true
}

// pass lets everything through that is not held yet.
func (l *slowLine) pass() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds = false
}

// release has what is held arrive, and returns how many bytes that were.
func (l *slowLine) release() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		if len(c.held) > 0 {
			_ = c.SetWriteDeadline(time.Time{}) // of whoever has given it up
			sent, err := c.Conn.Write(c.held)
			if err != nil {
				panic(fmt.Sprint("the server has closed a connection that was held: ", err))
			}
			n += sent
			c.held = nil
		}
	}
	return n
}

// countingLine counts connections.
type countingLine struct {
	mu    sync.Mutex
	conns int
}

func (l *countingLine) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	l.conns++
	l.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, network, address)
}

func (l *countingLine) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns
}

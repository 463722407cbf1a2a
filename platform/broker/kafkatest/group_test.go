package kafkatest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/kafkabroker"
)

// committed returns where a group stands in a partition, as Kafka has it.
func committed(t *testing.T, addr, group string, partition int) int64 {
	t.Helper()
	request := kmsg.NewPtrOffsetFetchRequest()
	request.Group = group
	asked := kmsg.NewOffsetFetchRequestTopic()
	asked.Topic, asked.Partitions = string(topic), []int32{int32(partition)}
	request.Topics = append(request.Topics, asked)
	ofGroup := kmsg.NewOffsetFetchRequestGroup()
	ofGroup.Group = group
	inGroup := kmsg.NewOffsetFetchRequestGroupTopic()
	inGroup.Topic, inGroup.Partitions = asked.Topic, asked.Partitions
	ofGroup.Topics = append(ofGroup.Topics, inGroup)
	request.Groups = append(request.Groups, ofGroup)
	answer, err := request.RequestWith(t.Context(), otherClient(t, addr))
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.Groups) > 0 {
		return answer.Groups[0].Topics[0].Partitions[0].Offset
	}
	return answer.Topics[0].Partitions[0].Offset
}

const groupID = "g." + string(topic)

// A member that does not finish in time loses its partition. kafka-go would commit
// for it all the same and put its heir back.
func TestALostPartitionIsNotCommitted(t *testing.T) {
	s := start(t)
	slow := plain(t, s.Addr(), func(c *kafkabroker.Config) { c.RebalanceGrace = 200 * time.Millisecond })
	partition := publish(t, slow, messages("a", 0, 10)...)[0].Partition
	first := subscribe(t, slow, "g")
	ack(t, take(t, first))
	held := take(t, first)
	if held.Event.ID != "a-1" {
		t.Fatalf("got %s", held.Event.ID)
	}
	// Others join and leave until one of them has the partition.
	heirs := plain(t, s.Addr())
	var heir broker.Group
	var d broker.GroupDelivery
	for {
		heir = subscribe(t, heirs, "g")
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		var err error
		d, err = heir.Next(ctx)
		cancel()
		if err == nil {
			break
		}
		heir.Close()
		first.Close() // it has kept the partition: now it goes, with the message in hand
	}
	for n := 1; n < 6; n++ {
		if want := fmt.Sprint("a-", n); d.Event.ID != want {
			t.Fatalf("the heir got %s, want %s", d.Event.ID, want)
		}
		ack(t, d)
		d = take(t, heir)
	}
	before := committed(t, s.Addr(), groupID, partition)
	if err := held.Ack(t.Context()); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("the late ack: %v, want ErrUnavailable", err)
	}
	if now := committed(t, s.Addr(), groupID, partition); before != 6 || now != before {
		t.Errorf("the group stood at %d and stands at %d, want 6", before, now)
	}
}

// Acks of one partition move its position up, and never down.
func TestPositionsNeverGoBack(t *testing.T) {
	s := start(t)
	b := plain(t, s.Addr())
	partition := publish(t, b, messages("a", 0, 6)...)[0].Partition
	group := subscribe(t, b, "g")
	var all []broker.GroupDelivery
	for range 5 {
		d := take(t, group)
		ack(t, d)
		all = append(all, d)
	}
	for _, d := range all {
		_ = d.Ack(t.Context()) // once more
		if at := committed(t, s.Addr(), groupID, partition); at != 5 {
			t.Fatalf("after another ack of %s the group stands at %d, want 5", d.Event.ID, at)
		}
	}
}

// A server that cannot tell a position is not one that has none: the group would
// begin with the oldest message.
func TestAPositionThatCannotBeReadIsNoBeginning(t *testing.T) {
	f := fake(t)
	b := plain(t, f.Addr())
	publish(t, b, messages("a", 0, 6)...)
	group := subscribe(t, b, "g")
	for range 3 {
		ack(t, take(t, group))
	}
	group.Close()
	f.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetFetch}, Topic: string(topic), Err: kerr.UnstableOffsetCommit, Count: 4})
	if d := take(t, subscribe(t, b, "g")); d.Event.ID != "a-3" {
		t.Errorf("the group begins with %s, want a-3", d.Event.ID)
	}
}

// What a group is told when its coordinator is in trouble.
func TestAGroupGoesOnAfterTrouble(t *testing.T) {
	for what, fault := range map[string]kfake.Fault{
		"heartbeats fail":           {Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.CoordinatorNotAvailable, Count: 3},
		"members are unknown":       {Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID, Count: 1},
		"the coordinator moves":     {Keys: []kmsg.Key{kmsg.Heartbeat, kmsg.FindCoordinator}, Err: kerr.NotCoordinator, Count: 2},
		"joining fails for a while": {Keys: []kmsg.Key{kmsg.JoinGroup}, Err: kerr.CoordinatorLoadInProgress, Count: 2},
		"commits fail":              {Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.CoordinatorNotAvailable, Count: 3},
	} {
		t.Run(what, func(t *testing.T) {
			f := fake(t)
			b := plain(t, f.Addr())
			publish(t, b, messages("a", 0, 30)...)
			fault.TopLevel = len(fault.Keys) == 1 && fault.Keys[0] != kmsg.OffsetCommit
			injected := f.Cluster().Fault(fault)
			group := subscribe(t, b, "g")
			last := -1
			for last < 29 {
				d := take(t, group)
				var n int
				if _, err := fmt.Sscanf(d.Event.ID, "a-%d", &n); err != nil || n > last+1 {
					t.Fatalf("after a-%d came %s", last, d.Event.ID)
				}
				last = max(last, n)
				_ = d.Ack(t.Context())            // it may fail, and then the message comes again
				time.Sleep(20 * time.Millisecond) // for heartbeats in between
			}
			if injected.Hits() == 0 {
				t.Error("the fault never came")
			}
		})
	}
}

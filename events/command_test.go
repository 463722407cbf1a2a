package events_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/countermand/countermand/events"
)

type (
	reserve  struct{ SKU string }
	reserved struct{ ID string }
)

var (
	reserveStock = events.NewCommand[reserve, reserved]("test.stock.reserve.v1", "out_of_stock")
	releaseStock = events.NewCommand[events.None, events.None]("test.stock.release.v1")
	stockLow     = events.NewFact[reserve]("test.stock.low.v1")
)

func TestCommand(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	t.Run("what is sent is what is received", func(t *testing.T) {
		e, err := reserveStock.New("1", "/s", reserve{"TEA"}, now)
		if err != nil {
			t.Fatal(err)
		}
		if e.Type != "test.stock.reserve.v1" || e.DataContentType != "application/json" || !e.Time.Equal(now) || e.Time.Location() != time.UTC {
			t.Errorf("event = %+v", e)
		}
		if got, err := reserveStock.Request(&e); err != nil || got != (reserve{"TEA"}) {
			t.Errorf("Request() = %+v, %v", got, err)
		}
	})
	t.Run("a request that nobody sent is refused", func(t *testing.T) {
		for _, data := range []string{"", "{", `{"SKU":1}`, `[]`} {
			e := events.Event{ID: "1", Type: reserveStock.Type(), Data: []byte(data)}
			if got, err := reserveStock.Request(&e); !errors.Is(err, events.ErrInvalid) {
				t.Errorf("Request of data %q = %+v, %v, want ErrInvalid", data, got, err)
			}
		}
	})
	t.Run("None needs no data", func(t *testing.T) {
		for _, data := range []string{"", "{}"} {
			if _, err := releaseStock.Request(&events.Event{Data: []byte(data)}); err != nil {
				t.Errorf("data %q: %v", data, err)
			}
		}
	})
	t.Run("what JSON cannot hold is an error", func(t *testing.T) {
		prices := events.NewCommand[float64, events.None]("test.price.set.v1")
		if e, err := prices.New("1", "/s", math.NaN(), now); err == nil {
			t.Errorf("New(NaN) = %+v", e)
		}
	})
	t.Run("its description names types and codes", func(t *testing.T) {
		d := reserveStock.Describe()
		if d.Kind != events.KindCommand || d.Topic != "test.stock.commands" || d.Request.Name() != "reserve" || d.Reply.Name() != "reserved" ||
			len(d.Rejections) != 1 || reserveStock.Rejections()[0] != "out_of_stock" {
			t.Errorf("Describe() = %+v", d)
		}
	})
	t.Run("a name that breaks the rule panics at start-up", func(t *testing.T) {
		for _, name := range []string{"", "reserve", "test.reserve", "Test.reserve.v1", "test.reserve.v0", "test..v1", "test.reserve.v1 "} {
			for kind, declare := range map[string]func(){
				"command": func() { events.NewCommand[reserve, reserved](name) },
				"fact":    func() { events.NewFact[reserve](name) },
			} {
				if !panics(declare) {
					t.Errorf("%s %q was let through", kind, name)
				}
			}
		}
	})
}

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

func TestFact(t *testing.T) {
	e, err := stockLow.New("1", "/stock", reserve{"TEA"}, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := stockLow.Payload(&e); err != nil || got.SKU != "TEA" || stockLow.Topic() != "test.stock.events" || stockLow.Describe().Reply != nil {
		t.Errorf("Payload() = %+v, %v; %+v", got, err, stockLow.Describe())
	}
}

func TestNewReply(t *testing.T) {
	now := time.Unix(1700000000, 0).UTC()
	cmd := events.Event{
		ID: "cmd-1", Source: "/sagas/x", Type: "test.stock.reserve.v1", Subject: "saga-1",
		CorrelationID: "saga-1", PartitionKey: "saga-1", CausationID: "before",
	}
	t.Run("it goes back to the saga that asked", func(t *testing.T) {
		reply, err := events.NewReply(&cmd, "/stock", []byte(`{"ID":"r1"}`), nil, now)
		if err != nil {
			t.Fatal(err)
		}
		command, rejected, ok := events.ReplyOf(&reply)
		if !ok || rejected || command != cmd.Type {
			t.Errorf("ReplyOf = %q, %v, %v", command, rejected, ok)
		}
		if reply.CorrelationID != "saga-1" || reply.PartitionKey != "saga-1" || reply.CausationID != "cmd-1" || reply.Source != "/stock" ||
			reply.DataContentType != "application/json" || reply.Validate() != nil {
			t.Errorf("reply = %+v", reply)
		}
	})
	t.Run("one command has one reply", func(t *testing.T) {
		first, err1 := events.NewReply(&cmd, "/stock", []byte(`1`), nil, now)
		again, err2 := events.NewReply(&cmd, "/stock", []byte(`2`), nil, now.Add(time.Hour))
		if err1 != nil || err2 != nil || first.ID != again.ID {
			t.Errorf("ids %s and %s, %v, %v", first.ID, again.ID, err1, err2)
		}
	})
	t.Run("a rejection carries its code", func(t *testing.T) {
		rejection := new(events.Rejection)
		if !errors.As(events.Reject("out_of_stock", "only %d left", 3), &rejection) || rejection.Error() != "out_of_stock: only 3 left" {
			t.Fatalf("Reject gave %v", rejection)
		}
		reply, err := events.NewReply(&cmd, "/stock", nil, rejection, now)
		if err != nil {
			t.Fatal(err)
		}
		var got events.Rejection
		if err := json.Unmarshal(reply.Data, &got); err != nil || got != *rejection {
			t.Errorf("data %s, %v", reply.Data, err)
		}
		if command, rejected, ok := events.ReplyOf(&reply); !ok || !rejected || command != cmd.Type {
			t.Errorf("ReplyOf = %q, %v, %v", command, rejected, ok)
		}
	})
	t.Run("a reply without data states no content type", func(t *testing.T) {
		if reply, err := events.NewReply(&cmd, "/stock", nil, nil, now); err != nil || reply.DataContentType != "" {
			t.Errorf("content type %q, %v", reply.DataContentType, err)
		}
	})
	t.Run("the longest name leaves room for its replies and outcomes", func(t *testing.T) {
		name := "t.x.v1"
		for longer := name; events.ValidateType(longer) == nil; longer = "t." + strings.Repeat("x", len(name)-3) + ".v1" {
			name = longer
		}
		if len(name) < 100 {
			t.Fatalf("the longest name has %d bytes", len(name))
		}
		long := cmd
		for _, long.Type = range []string{name, events.CompensationType(name)} {
			for _, rejection := range []*events.Rejection{nil, {Code: "no"}} {
				reply, err := events.NewReply(&long, "/stock", nil, rejection, now)
				if err := errors.Join(err, reply.Validate()); err != nil {
					t.Error(err)
				}
			}
		}
		other := name[:len(name)-len(".y.v1")] + ".y.v1"
		long.Type = events.OutcomeType(other, "compensated")
		if err := errors.Join(long.Validate(), events.CommandTopic(other).Validate(), events.FactTopic(other).Validate()); err != nil {
			t.Error(err)
		}
	})
	t.Run("a name that is too long is told the limit", func(t *testing.T) {
		err := events.ValidateType("test." + strings.Repeat("x", 101) + ".v1")
		if err == nil || !strings.Contains(err.Error(), "has 109 bytes, at most 108") || !strings.Contains(err.Error(), "shorten") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("other events are no replies", func(t *testing.T) {
		for _, typ := range []string{"", "test.stock.reserve.v1", ".reply", ".rejected", "reply"} {
			if _, _, ok := events.ReplyOf(&events.Event{Type: typ}); ok {
				t.Errorf("%q was taken for a reply", typ)
			}
		}
	})
}

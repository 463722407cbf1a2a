package wire

import (
	"bytes"
	"os"
	"path"
	"testing"

	"github.com/countermand/countermand/events/shop"
)

func TestSchedulesMayStartSagasAndSendCommands(t *testing.T) {
	commands, err := scheduleCommands()
	if err != nil {
		t.Fatal(err)
	}
	sagas := make(map[string]bool)
	for _, c := range commands {
		if _, twice := sagas[c.Type]; twice {
			t.Errorf("%s is there twice", c.Type)
		}
		sagas[c.Type] = c.Saga
		if err := c.Topic.Validate(); err != nil {
			t.Errorf("%s: %v", c.Type, err)
		}
	}
	if !sagas[shop.RequestCheckout.Type()] {
		t.Error("no schedule may start a checkout")
	}
	if saga, ok := sagas[shop.ReserveStock.Type()]; !ok || saga {
		t.Errorf("reserving stock: there %t, a saga %t; want a plain command", ok, saga)
	}
	if _, ok := sagas[shop.OrderPlaced.Type()]; ok {
		t.Error("a fact is no command")
	}
}

// An image has no time zones but those in the binary, and every binary is made of this
// package.
func TestBinariesBringTimeZones(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	// Joined while the test runs, so that only the zones' own table holds the name.
	if zone := path.Join("Antarctica", "DumontDUrville"); !bytes.Contains(content, []byte(zone)) {
		t.Errorf("the binary does not know the time zone %s: import time/tzdata", zone)
	}
}

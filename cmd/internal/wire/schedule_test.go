package wire

import (
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

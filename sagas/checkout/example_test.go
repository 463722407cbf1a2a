package checkout_test

import (
	"fmt"
	"time"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/saga"
	"github.com/countermand/countermand/sagas/checkout"
)

// A definition is data and its decisions are a pure function, so a checkout can
// be played without a broker or a database. Here there is too little stock.
func Example() {
	program, err := checkout.Saga.Compile()
	if err != nil {
		fmt.Println(err)
		return
	}
	order, commands, _ := program.Decide(saga.Instance{}, saga.Input{Start: &saga.StartInput{
		ID:      "018f3a5e-7d10-7c44-9d6c-0a1b2c3d4e5f",
		Request: []byte(`{"customer":"ada","currency":"EUR","items":[{"sku":"RARE-001","quantity":9}],"payment":{"token":"tok_ok"}}`),
	}}, time.Now())

	for len(commands) > 0 {
		command := commands[0]
		fmt.Println("send", command.Type)
		reply := saga.ReplyInput{CommandID: command.ID}
		if command.Type == shop.ReserveStock.Type() {
			reply.Rejection = &events.Rejection{Code: shop.OutOfStock, Message: "5 of RARE-001 are left"}
		}
		order, commands, _ = program.Decide(order, saga.Input{Reply: &reply}, time.Now())
	}
	fmt.Println(order.Status, "because of", order.Failure.Code)
	// Output:
	// send shop.order.create.v1
	// send shop.inventory.reserve.v1
	// send shop.order.cancel.v1
	// compensated because of out_of_stock
}

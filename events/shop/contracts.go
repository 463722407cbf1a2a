package shop

import (
	"embed"
	"fmt"

	"github.com/countermand/countermand/events"
)

// Contracts lists every contract of the shop.
func Contracts() []events.Contract {
	return []events.Contract{
		RequestCheckout,
		CreateOrder, ConfirmOrder, CancelOrder, OrderPlaced, OrderConfirmed, OrderCancelled,
		ReserveStock, ReleaseStock, CommitStock,
		AuthorizePayment, VoidPayment, CapturePayment,
		RequestReturn, OpenReturn, CancelReturn, CompleteReturn, OrderReturned,
		RestockItem, WithdrawItem, ShelveStock, RefundPayment,
		RequestReview, ReviewDecided, RequestFulfilment,
	}
}

//go:embed schemas/*.json
var schemas embed.FS

// Schema returns the JSON Schema (2020-12) of the data of events of that type.
// It fails for a type that is no contract of the shop.
func Schema(eventType string) ([]byte, error) {
	schema, err := schemas.ReadFile("schemas/" + eventType + ".json")
	if err != nil {
		return nil, fmt.Errorf("no schema for %s: it is not a contract of the shop", eventType)
	}
	return schema, nil
}

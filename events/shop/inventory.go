package shop

import "github.com/countermand/countermand/events"

// Commands of the inventory service.
var (
	ReserveStock = events.NewCommand[ReserveStockRequest, StockReserved]("shop.inventory.reserve.v1",
		UnknownSKU, OutOfStock, UnsupportedCurrency)
	ReleaseStock = events.NewCommand[ReleaseStockRequest, events.None]("shop.inventory.release.v1")
	CommitStock  = events.NewCommand[CommitStockRequest, events.None]("shop.inventory.commit.v1")
)

// ReserveStockRequest asks to hold stock for an order, all lines or none, and
// to price it.
type ReserveStockRequest struct {
	OrderID  string `json:"order_id" jsonschema:"format=uuid"`
	Currency string `json:"currency"`
	Items    []Item `json:"items"`
}

// StockReserved says the stock is held and what it costs.
type StockReserved struct {
	Lines []Line `json:"lines"`
	Total int64  `json:"total"`
}

// Line is one priced line of a reservation.
type Line struct {
	SKU       string `json:"sku"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
}

// ReleaseStockRequest asks to give held stock back.
type ReleaseStockRequest struct {
	OrderID string `json:"order_id" jsonschema:"format=uuid"`
}

// CommitStockRequest asks to take held stock off the shelf for good.
type CommitStockRequest struct {
	OrderID string `json:"order_id" jsonschema:"format=uuid"`
}

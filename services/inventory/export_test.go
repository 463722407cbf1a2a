package inventory

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events/shop"
)

// Reserve lets tests reserve in a transaction of their own. It returns how each
// order ended.
func Reserve(ctx context.Context, s *Service, tx pgx.Tx, requests ...shop.ReserveStockRequest) ([]error, error) {
	items := make([]reserving, len(requests))
	for i, q := range requests {
		items[i] = reserving{Context: ctx, Request: q}
	}
	err := s.reserve(ctx, tx, items)
	ended := make([]error, len(items))
	for i := range items {
		ended[i] = items[i].Err
	}
	return ended, err
}

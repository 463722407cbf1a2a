package order

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

func (s *Service) getReturn(w http.ResponseWriter, r *http.Request) error {
	var back struct {
		ID        uuid.UUID       `json:"id"`
		OrderID   uuid.UUID       `json:"order_id"`
		Status    string          `json:"status"`
		Items     json.RawMessage `json:"items"`
		Reason    string          `json:"reason"`
		Refund    *int64          `json:"refund"` // null until the return is completed
		CreatedAt time.Time       `json:"created_at"`
		UpdatedAt time.Time       `json:"updated_at"`
	}
	id, err := uuid.Parse(r.PathValue("id"))
	if err == nil {
		err = s.pool.QueryRow(r.Context(), `
			select id, order_id, status, reason, refund, created_at, updated_at,
				(select jsonb_agg(jsonb_build_object('sku', sku, 'quantity', quantity) order by sku) from order_return_line where return_id = $1)
			from order_return where id = $1`, id).Scan(&back.ID, &back.OrderID, &back.Status, &back.Reason, &back.Refund,
			&back.CreatedAt, &back.UpdatedAt, &back.Items)
	} else {
		err = pgx.ErrNoRows
	}
	back.CreatedAt, back.UpdatedAt = back.CreatedAt.UTC(), back.UpdatedAt.UTC()
	return read(w, err, back, "return_not_found", "there is no such return")
}

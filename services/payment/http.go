package payment

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// HTTP returns the read API: GET /v1/payments/{order_id}.
func (s *Service) HTTP() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/payments/{order_id}", s.getPayment)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem(w, r, http.StatusNotFound, "not_found", "Nothing is here")
	})
	return mux
}

func (s *Service) getPayment(w http.ResponseWriter, r *http.Request) {
	var payment struct {
		OrderID  uuid.UUID `json:"order_id"`
		Status   string    `json:"status"`
		Amount   int64     `json:"amount"`
		Currency string    `json:"currency"`
		Refunded int64     `json:"refunded,omitempty"`
	}
	order, err := uuid.Parse(r.PathValue("order_id"))
	if err != nil {
		err = pgx.ErrNoRows // no payment has such an id
	} else {
		err = s.pool.QueryRow(r.Context(), "select order_id, status, amount, currency, refunded from payment where order_id = $1", order).
			Scan(&payment.OrderID, &payment.Status, &payment.Amount, &payment.Currency, &payment.Refunded)
	}
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		problem(w, r, http.StatusNotFound, "payment_not_found", "There is no payment for this order")
	case err != nil:
		s.logger.ErrorContext(r.Context(), "payment could not be read", "order_id", order, "error", err)
		problem(w, r, http.StatusServiceUnavailable, "unavailable", "The payment could not be read")
	default:
		respond(w, "application/json", http.StatusOK, payment)
	}
}

// problem answers with a problem document (RFC 9457).
func problem(w http.ResponseWriter, r *http.Request, status int, code, title string) {
	respond(w, "application/problem+json", status, map[string]any{
		"type": "urn:countermand:problem:" + code, "title": title, "status": status, "instance": r.URL.Path, "code": code,
		"retriable": status == http.StatusServiceUnavailable,
	})
}

func respond(w http.ResponseWriter, contentType string, status int, body any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client has gone away
}

package payment

import (
	"errors"
	"net/http"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/answer"
)

// HTTP returns the read API: GET /v1/payments/{order_id}.
func (s *Service) HTTP() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/payments/{order_id}", answer.Handler(s.explain, s.getPayment))
	mux.HandleFunc("/", answer.Handler(s.explain, func(http.ResponseWriter, *http.Request) error {
		return answer.No(http.StatusNotFound, "not_found", "nothing is here")
	}))
	return mux
}

func (s *Service) getPayment(w http.ResponseWriter, r *http.Request) error {
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
	if errors.Is(err, pgx.ErrNoRows) {
		return answer.No(http.StatusNotFound, "payment_not_found", "there is no payment for this order")
	}
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, payment)
}

// explain answers for errors that are the service's own.
func (s *Service) explain(_ http.ResponseWriter, r *http.Request, err error) answer.Problem {
	s.logger.ErrorContext(r.Context(), "payment could not be read", "path", r.URL.Path, "error", err)
	return answer.No(http.StatusServiceUnavailable, "unavailable", "the payment could not be read; try again")
}

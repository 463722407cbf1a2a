package order

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/answer"
)

// HTTP returns the read API: GET /v1/orders/{id} and /v1/returns/{id}, and GET
// /v1/customers/{customer} from the read model, which lags behind the orders.
func (s *Service) HTTP() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/orders/{id}", answer.Handler(s.explain, s.getOrder))
	mux.HandleFunc("GET /v1/returns/{id}", answer.Handler(s.explain, s.getReturn))
	mux.HandleFunc("GET /v1/customers/{customer}", answer.Handler(s.explain, s.getCustomer))
	mux.HandleFunc("/", answer.Handler(s.explain, func(http.ResponseWriter, *http.Request) error {
		return answer.No(http.StatusNotFound, "not_found", "nothing is here")
	}))
	return mux
}

func (s *Service) getOrder(w http.ResponseWriter, r *http.Request) error {
	var order struct {
		ID        uuid.UUID       `json:"id"`
		Status    string          `json:"status"`
		Customer  string          `json:"customer"`
		Currency  string          `json:"currency"`
		Items     json.RawMessage `json:"items"`
		Total     *int64          `json:"total"` // null until the order is confirmed
		Reason    *string         `json:"reason,omitempty"`
		CreatedAt time.Time       `json:"created_at"`
		UpdatedAt time.Time       `json:"updated_at"`
	}
	id, err := uuid.Parse(r.PathValue("id"))
	if err == nil {
		err = s.pool.QueryRow(r.Context(), `
			select id, status, customer, currency, items, total, reason, created_at, updated_at
			from orders where id = $1`, id).Scan(&order.ID, &order.Status, &order.Customer, &order.Currency,
			&order.Items, &order.Total, &order.Reason, &order.CreatedAt, &order.UpdatedAt)
	} else {
		err = pgx.ErrNoRows
	}
	order.CreatedAt, order.UpdatedAt = order.CreatedAt.UTC(), order.UpdatedAt.UTC()
	return read(w, err, order, "order_not_found", "there is no such order")
}

func (s *Service) getCustomer(w http.ResponseWriter, r *http.Request) error {
	customer := struct {
		Customer  string           `json:"customer"`
		Pending   int64            `json:"pending"`
		Confirmed int64            `json:"confirmed"`
		Cancelled int64            `json:"cancelled"`
		Spent     map[string]int64 `json:"spent"` // in minor units by currency
		UpdatedAt time.Time        `json:"updated_at"`
	}{Customer: r.PathValue("customer")}
	err := pgx.ErrNoRows
	if storable(customer.Customer) {
		err = s.pool.QueryRow(r.Context(), `
			select pending, confirmed, cancelled, updated_at,
				coalesce((select jsonb_object_agg(currency, spent) from customer_spending where customer = $1), '{}')
			from customer_summary where customer = $1`, customer.Customer).
			Scan(&customer.Pending, &customer.Confirmed, &customer.Cancelled, &customer.UpdatedAt, &customer.Spent)
	}
	customer.UpdatedAt = customer.UpdatedAt.UTC()
	return read(w, err, customer, "customer_not_found", "there is no such customer")
}

// read sends what was read. The code and what it says are for when there is none.
func read(w http.ResponseWriter, err error, body any, code, detail string) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return answer.No(http.StatusNotFound, code, detail)
	}
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, body)
}

// explain answers for errors that are the service's own.
func (s *Service) explain(_ http.ResponseWriter, r *http.Request, err error) answer.Problem {
	s.logger.ErrorContext(r.Context(), "orders could not be read", "path", r.URL.Path, "error", err)
	return answer.No(http.StatusServiceUnavailable, "unavailable", "the orders could not be read; try again")
}

// storable reports whether text could be in the database at all: Postgres takes
// neither U+0000 nor what is not UTF-8.
func storable(text string) bool { return utf8.ValidString(text) && !strings.ContainsRune(text, 0) }

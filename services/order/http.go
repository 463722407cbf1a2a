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
)

// HTTP returns the read API: GET /v1/orders/{id} and /v1/returns/{id}, and GET
// /v1/customers/{customer} from the read model, which lags behind the orders.
func (s *Service) HTTP() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/orders/{id}", s.getOrder)
	mux.HandleFunc("GET /v1/returns/{id}", s.getReturn)
	mux.HandleFunc("GET /v1/customers/{customer}", s.getCustomer)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem(w, r, http.StatusNotFound, "not_found", "Nothing is here")
	})
	return mux
}

func (s *Service) getOrder(w http.ResponseWriter, r *http.Request) {
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
	s.answer(w, r, err, "order_not_found", "There is no such order", order)
}

func (s *Service) getCustomer(w http.ResponseWriter, r *http.Request) {
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
	s.answer(w, r, err, "customer_not_found", "There is no such customer", customer)
}

// answer sends what was read, or why it could not be.
func (s *Service) answer(w http.ResponseWriter, r *http.Request, err error, code, title string, body any) {
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		problem(w, r, http.StatusNotFound, code, title)
	case err != nil:
		s.logger.ErrorContext(r.Context(), "orders could not be read", "path", r.URL.Path, "error", err)
		problem(w, r, http.StatusServiceUnavailable, "unavailable", "The orders could not be read")
	default:
		respond(w, "application/json", http.StatusOK, body)
	}
}

// storable reports whether text could be in the database at all: Postgres takes
// neither U+0000 nor what is not UTF-8.
func storable(text string) bool { return utf8.ValidString(text) && !strings.ContainsRune(text, 0) }

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

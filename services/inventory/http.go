package inventory

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// HTTP returns the read API: GET /v1/inventory/{sku}.
func (s *Service) HTTP() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/inventory/{sku}", s.getStock)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem(w, r, http.StatusNotFound, "not_found", "Nothing is here")
	})
	return mux
}

func (s *Service) getStock(w http.ResponseWriter, r *http.Request) {
	stock := struct {
		SKU       string `json:"sku"`
		OnHand    int64  `json:"on_hand"`
		Reserved  int64  `json:"reserved"`
		Available int64  `json:"available"`
	}{SKU: r.PathValue("sku")}
	err := s.pool.QueryRow(r.Context(), "select on_hand, reserved, on_hand - reserved from stock where sku = $1", stock.SKU).
		Scan(&stock.OnHand, &stock.Reserved, &stock.Available)
	switch {
	case errors.Is(err, pgx.ErrNoRows) || !storable(stock.SKU):
		problem(w, r, http.StatusNotFound, "sku_not_found", "There is no such sku")
	case err != nil:
		s.logger.ErrorContext(r.Context(), "stock could not be read", "sku", stock.SKU, "error", err)
		problem(w, r, http.StatusServiceUnavailable, "unavailable", "The stock could not be read")
	default:
		respond(w, "application/json", http.StatusOK, stock)
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

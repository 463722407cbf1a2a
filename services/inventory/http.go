package inventory

import (
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/answer"
)

// HTTP returns the read API: GET /v1/inventory/{sku}.
func (s *Service) HTTP() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/inventory/{sku}", answer.Handler(s.explain, s.getStock))
	mux.HandleFunc("/", answer.Handler(s.explain, func(http.ResponseWriter, *http.Request) error {
		return answer.No(http.StatusNotFound, "not_found", "nothing is here")
	}))
	return mux
}

func (s *Service) getStock(w http.ResponseWriter, r *http.Request) error {
	stock := struct {
		SKU       string `json:"sku"`
		OnHand    int64  `json:"on_hand"`
		Reserved  int64  `json:"reserved"`
		Available int64  `json:"available"`
	}{SKU: r.PathValue("sku")}
	err := s.pool.QueryRow(r.Context(), "select on_hand, reserved, on_hand - reserved from stock where sku = $1", stock.SKU).
		Scan(&stock.OnHand, &stock.Reserved, &stock.Available)
	if errors.Is(err, pgx.ErrNoRows) || !storable(stock.SKU) {
		return answer.No(http.StatusNotFound, "sku_not_found", "there is no such sku")
	}
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, stock)
}

// explain answers for errors that are the service's own.
func (s *Service) explain(_ http.ResponseWriter, r *http.Request, err error) answer.Problem {
	s.logger.ErrorContext(r.Context(), "stock could not be read", "path", r.URL.Path, "error", err)
	return answer.No(http.StatusServiceUnavailable, "unavailable", "the stock could not be read; try again")
}

// storable reports whether text could be in the database at all: Postgres takes
// neither U+0000 nor what is not UTF-8.
func storable(text string) bool { return utf8.ValidString(text) && !strings.ContainsRune(text, 0) }

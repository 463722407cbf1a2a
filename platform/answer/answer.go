// Package answer writes what small HTTP APIs answer: JSON, and problem documents
// (RFC 9457) for what they do not do.
//
// A handler of theirs returns an error where it says no. [Handler] makes a handler of
// net/http of it.
package answer

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
)

// Problem is an answer that says no. It is an error that handlers return.
type Problem struct { //nolint:errname // it is an answer, as a rejection is
	Status int
	// Code names the problem for programs, Detail tells a person what to do.
	Code   string
	Detail string
	// Errors are single mistakes in what was sent, if there is more than Detail to tell.
	Errors []string
}

// No returns a problem.
func No(status int, code, detail string) Problem {
	return Problem{Status: status, Code: code, Detail: detail}
}

// Error implements error.
func (p Problem) Error() string { return p.Code + ": " + p.Detail }

// document is a problem as it is sent.
type document struct {
	Type      string   `json:"type"` // urn:countermand:problem:<code>
	Title     string   `json:"title"`
	Status    int      `json:"status"`
	Code      string   `json:"code"`
	Detail    string   `json:"detail"`
	Instance  string   `json:"instance"` // the path asked for
	Retriable bool     `json:"retriable"`
	Errors    []string `json:"errors,omitempty"`
}

// Handler answers with the problem that handle returns. Other errors are made one by
// explain, which may set fields of the header. Nothing is sent to a client that is gone.
func Handler(explain func(w http.ResponseWriter, r *http.Request, err error) Problem, handle func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := handle(w, r)
		if err == nil || r.Context().Err() != nil {
			return
		}
		p, ok := errors.AsType[Problem](err)
		if !ok {
			p = explain(w, r, err)
		}
		send(w, p.Status, "application/problem+json", document{
			Type: "urn:countermand:problem:" + p.Code, Title: http.StatusText(p.Status), Status: p.Status, Code: p.Code, Detail: p.Detail,
			Instance: r.URL.Path, Retriable: p.Status == http.StatusTooManyRequests || p.Status > http.StatusInternalServerError, Errors: p.Errors,
		})
	}
}

// JSON answers with a body. It returns nil, so that a handler can end with it.
func JSON(w http.ResponseWriter, status int, body any) error {
	send(w, status, "application/json", body)
	return nil
}

func send(w http.ResponseWriter, status int, contentType string, body any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone when this fails
}

// Read decodes a JSON body of at most that many bytes that has no unknown fields. Its
// error is a [Problem].
func Read(w http.ResponseWriter, r *http.Request, into any, bytesMax int64) error {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, bytesMax))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = cmp.Or(err, errors.New("there is more than one JSON value"))
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return No(http.StatusRequestEntityTooLarge, "body_too_large", "the body is too large: it may have "+strconv.FormatInt(bytesMax, 10)+" bytes")
	}
	return No(http.StatusBadRequest, "invalid_json", err.Error())
}

// Number reads a count from the query. Its error is a [Problem].
func Number(r *http.Request, name string, otherwise, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, No(http.StatusBadRequest, "invalid_"+name, name+" must be a number from 1 to "+strconv.Itoa(most))
	}
	return n, nil
}

package product

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Client speaks HTTP to one listener. It is safe for concurrent use.
type Client struct {
	Base string
	http *http.Client
}

// NewClient returns a client of the listener at base.
func NewClient(base string) *Client {
	return &Client{Base: base, http: &http.Client{
		Timeout:       time.Minute, // longer than any wait a request may ask for
		Transport:     &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close closes the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Answer is a response that was read to its end.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// String shows the answer in the message of a failed test.
func (a Answer) String() string { return fmt.Sprintf("%d %s", a.Status, a.Body) }

// Decode reads the body as one JSON document with no fields but those of into.
func (a Answer) Decode(into any) error {
	decoder := json.NewDecoder(strings.NewReader(string(a.Body)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("decode %s: %w", a, err)
	}
	return nil
}

// Do makes a request. Each header is "Name: value".
func (c *Client) Do(ctx context.Context, method, path, body string, headers ...string) (Answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.Base+path, strings.NewReader(body))
	if err != nil {
		return Answer{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Add(name, value)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return Answer{Status: response.StatusCode, Header: response.Header, Body: content}, nil
}

// get reads a document that must be there.
func get[T any](ctx context.Context, c *Client, path string, headers ...string) (T, error) {
	document, found, err := getIfAny[T](ctx, c, path, headers...)
	if err == nil && !found {
		err = fmt.Errorf("GET %s answered 404", path)
	}
	return document, err
}

// getIfAny reads a document; false when there is none.
func getIfAny[T any](ctx context.Context, c *Client, path string, headers ...string) (document T, found bool, err error) {
	answer, err := c.Do(ctx, http.MethodGet, path, "", headers...)
	switch {
	case err != nil:
		return document, false, err
	case answer.Status == http.StatusNotFound:
		return document, false, nil
	case answer.Status != http.StatusOK:
		return document, false, fmt.Errorf("GET %s answered %s", path, answer)
	}
	if err := json.Unmarshal(answer.Body, &document); err != nil {
		return document, false, fmt.Errorf("GET %s: %w: %s", path, err, answer.Body)
	}
	return document, true, nil
}

// escape makes text one segment of a path.
func escape(text string) string { return url.PathEscape(text) }

package streamtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"

	"github.com/coder/websocket"
)

// event is what clients look at of a CloudEvent.
type event struct {
	ID       string `json:"id"`
	Position string `json:"streamposition"` // over a WebSocket
}

// open asks for a stream. It returns no response when the gateway says that it may be
// asked again later.
func open(ctx context.Context, address string, header http.Header) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	request.Header = header
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	switch response.StatusCode {
	case http.StatusOK, http.StatusNoContent:
		return response, nil
	case http.StatusServiceUnavailable:
		defer func() { _ = response.Body.Close() }()
		if response.Header.Get("Retry-After") == "" {
			return nil, fmt.Errorf("it is answered %s without Retry-After", response.Status)
		}
		return nil, nil
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return nil, fmt.Errorf("it is answered %s: %s, %w", response.Status, body, err)
}

// first asks for everything, which only a client without a position does.
func (c *client) first() string {
	if c.position == "" {
		return "?start=earliest"
	}
	return ""
}

func (c *client) resume(accept string) http.Header {
	header := http.Header{"Accept": {accept}}
	if c.position != "" {
		header.Set("Last-Event-ID", c.position)
	}
	return header
}

func sse(ctx context.Context, c *client) error { return readSSE(ctx, c, math.MaxInt) }

// sseCut gives up after some events, in the middle of what comes.
func sseCut(ctx context.Context, c *client) error { return readSSE(ctx, c, 37) }

// readSSE reads a stream of server-sent events, at most so many.
func readSSE(ctx context.Context, c *client, most int) error {
	response, err := open(ctx, c.url()+c.first(), c.resume("text/event-stream"))
	if response == nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	var id, name, data string
	for most > 0 && !c.full() && lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data = value
		case "":
			switch {
			case name == "position_gone":
				return fmt.Errorf("it ends with %s", data)
			case name == "" && data != "":
				var e event
				if err := json.Unmarshal([]byte(data), &e); err != nil {
					return err
				}
				c.take(e.ID, id)
				most--
			case id != "":
				c.position = id // what was passed over
			}
			id, name, data = "", "", ""
		}
	}
	return nil
}

func poll(ctx context.Context, c *client) error {
	for !c.full() {
		header := c.resume("application/cloudevents-batch+json")
		header.Set("Prefer", "wait=2")
		response, err := open(ctx, c.url()+c.first(), header)
		if response == nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil {
			return nil //nolint:nilerr // it is tried again
		}
		position := response.Header.Get("Last-Event-ID")
		var batch []event
		if response.StatusCode == http.StatusOK {
			if err := json.Unmarshal(body, &batch); err != nil {
				return err
			}
		}
		for _, e := range batch {
			c.take(e.ID, position)
		}
		c.position = position
	}
	return nil
}

func socket(ctx context.Context, c *client) error {
	address := c.url() + c.first()
	if c.position != "" {
		address += "?after=" + url.QueryEscape(c.position)
	}
	conn, response, err := websocket.Dial(ctx, address, &websocket.DialOptions{Subprotocols: []string{"cloudevents.json"}}) //nolint:bodyclose // the library has read it
	if err != nil {
		if response == nil || response.StatusCode != http.StatusServiceUnavailable {
			return err
		}
		return nil
	}
	defer func() { _ = conn.CloseNow() }()
	for !c.full() {
		_, message, err := conn.Read(ctx)
		if err != nil {
			if code := websocket.CloseStatus(err); code == 4410 {
				return err
			}
			return nil
		}
		var e event
		if err := json.Unmarshal(message, &e); err != nil {
			return err
		}
		c.take(e.ID, e.Position)
	}
	return nil
}

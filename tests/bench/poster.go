package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"time"
)

// posters are connections that all send the same request, one at a time on each. They
// speak HTTP by themselves: net/http's client costs more than the gateway does.
type posters struct {
	idle    chan *poster
	request []byte
	want    int // status of every answer
}

type poster struct {
	conn  net.Conn
	lines *bufio.Reader
}

// openPosters opens n connections, which last for that long.
func openPosters(ctx context.Context, n int, target string, body []byte, want int, lasting time.Duration) (_ *posters, err error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	p := &posters{idle: make(chan *poster, n), want: want, request: fmt.Appendf(nil,
		"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", u.Path, u.Host, len(body), body)}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for range n {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return nil, err
		}
		p.idle <- &poster{conn, bufio.NewReaderSize(conn, 2048)}
		if err := conn.SetDeadline(time.Now().Add(lasting)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// close closes all connections; none may be in use.
func (p *posters) close() {
	for {
		select {
		case one := <-p.idle:
			_ = one.conn.Close()
		default:
			return
		}
	}
}

// post sends one request on the next connection that is free, and returns how long its
// answer took.
func (p *posters) post(ctx context.Context) (time.Duration, error) {
	var one *poster
	select {
	case one = <-p.idle:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { p.idle <- one }()
	begin := time.Now()
	if _, err := one.conn.Write(p.request); err != nil {
		return 0, err
	}
	err := one.read(p.want)
	return time.Since(begin), err
}

var contentLength = []byte("Content-Length: ") // as net/http writes it

// read reads one answer to its end.
func (p *poster) read(want int) error {
	line, err := p.lines.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < len("HTTP/1.1 202") {
		return fmt.Errorf("an answer begins with %q", line)
	}
	status, err := strconv.Atoi(string(line[len("HTTP/1.1 "):len("HTTP/1.1 202")]))
	if err != nil {
		return fmt.Errorf("an answer begins with %q", line)
	}
	length := -1
	for {
		if line, err = p.lines.ReadSlice('\n'); err != nil {
			return err
		}
		if len(line) == len("\r\n") {
			break
		}
		if digits, ok := bytes.CutPrefix(line, contentLength); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(digits))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errors.New("an answer does not say how long it is")
	}
	if status != want {
		body, _ := io.ReadAll(io.LimitReader(p.lines, int64(length)))
		return fmt.Errorf("answered %d, not %d: %s", status, want, body)
	}
	_, err = p.lines.Discard(length)
	return err
}

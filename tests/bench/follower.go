package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// follower is a client of a stream of server-sent events. It speaks HTTP by itself:
// ten thousand of net/http's clients would weigh more than what is measured.
type follower struct {
	conn  net.Conn
	lines *bufio.Reader
	last  string // event id
}

// openFollower opens a stream after a position, or now.
func openFollower(ctx context.Context, base, after string, buffer int) (*follower, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	f := &follower{conn: conn, lines: bufio.NewReaderSize(conn, buffer), last: after}
	request := "GET /v1/bench HTTP/1.1\r\nHost: " + u.Host + "\r\nAccept: text/event-stream\r\n"
	if after != "" {
		request += "Last-Event-ID: " + after + "\r\n"
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Write([]byte(request + "\r\n")); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	status, err := f.lines.ReadString('\n')
	if err == nil && !bytes.Contains([]byte(status), []byte(" "+strconv.Itoa(http.StatusOK)+" ")) {
		err = fmt.Errorf("a stream is answered %q", status)
	}
	for err == nil && f.last == after { // the first frame has the position
		_, err = f.read()
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return f, conn.SetDeadline(time.Time{})
}

// read returns the next line of data; nil for a line of something else. The lengths of
// chunks are lines like any other.
func (f *follower) read() (data []byte, err error) {
	line, err := f.lines.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if id, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
		f.last = string(bytes.TrimSpace(id))
		return nil, nil
	}
	data, _ = bytes.CutPrefix(line, []byte("data: "))
	if len(data) == len(line) {
		return nil, nil
	}
	return data, nil
}

// alive reports whether the stream is still open, by what has come of it.
func (f *follower) alive() bool {
	for {
		_ = f.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := f.read(); err != nil {
			var timeout net.Error
			return errors.As(err, &timeout) && timeout.Timeout()
		}
	}
}

func (f *follower) close() { _ = f.conn.Close() }

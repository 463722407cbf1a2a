package simulated

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
)

// RoundTrip makes the provider an [http.RoundTripper]: requests to it take no network
// and no port, whatever host they name. A provider that breaks off is seen as a body
// that ends with [io.ErrUnexpectedEOF].
func (p *Provider) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	reader, writer := io.Pipe()
	w := &pipedWriter{header: make(http.Header), body: writer, begun: make(chan struct{})}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	go func() {
		defer cancel()
		defer func() {
			_ = r.Body.Close()
			cause := recover()
			err, _ := cause.(error)
			switch {
			case cause == nil && ctx.Err() == nil:
				w.begin(http.StatusOK)
				_ = writer.Close()
			case cause == nil, errors.Is(err, http.ErrAbortHandler):
				w.begin(http.StatusOK)
				_ = writer.CloseWithError(io.ErrUnexpectedEOF)
			default:
				panic(cause)
			}
		}()
		p.ServeHTTP(w, r.Clone(ctx))
	}()
	select {
	case <-w.begun:
	case <-r.Context().Done():
		cancel()
		_ = reader.Close()
		return nil, r.Context().Err()
	}
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: &pipedBody{reader, cancel}, ContentLength: -1, Request: r,
	}, nil
}

type pipedBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

// Close ends the answer.
func (b *pipedBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// pipedWriter is the writer of an answer whose body is read by the one who asked.
type pipedWriter struct {
	header, sent http.Header
	status       int
	body         *io.PipeWriter
	once         sync.Once
	begun        chan struct{}
}

// Header returns the header to send.
func (w *pipedWriter) Header() http.Header { return w.header }

// WriteHeader sends the header.
func (w *pipedWriter) WriteHeader(status int) { w.begin(status) }

func (w *pipedWriter) begin(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.begun)
	})
}

// Write gives a part of the body to its reader.
func (w *pipedWriter) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.body.Write(p)
}

// Flush has nothing to do: every write is read at once.
func (w *pipedWriter) Flush() { w.begin(http.StatusOK) }

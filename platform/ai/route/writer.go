package route

import (
	"net/http"
	"time"
)

// writer writes to a client, each time within a deadline.
type writer struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	set     time.Time
}

func (o *writer) write(data []byte, flush bool) error {
	if now := time.Now(); now.Sub(o.set) > min(time.Second, o.timeout/4) {
		o.set = now
		_ = o.control.SetWriteDeadline(now.Add(o.timeout)) // a writer of a test has none
	}
	if _, err := o.w.Write(data); err != nil {
		return err
	}
	if flush {
		return o.control.Flush()
	}
	return nil
}

package route

import (
	"errors"
	"net/http"
	"time"

	"github.com/countermand/countermand/platform/ai/upstream"
	"github.com/countermand/countermand/platform/ai/wire"
)

// stream gives an answer in parts. Once its first part is out, a failure is told within
// it.
func (x *exchange) stream(answer *upstream.Answer) error {
	held, logged := x.s.holdsBack(), x.s.LogContent
	var all []byte
	write := func(frames []byte) error {
		if (held || logged) && len(all) <= heldBytesMax {
			all = append(all, frames...)
		}
		if !held {
			return x.out.write(frames, true)
		}
		if len(all) > heldBytesMax {
			return &wire.Error{Status: http.StatusBadGateway, Code: "answer_too_large", Message: "The answer is too large to be checked."}
		}
		return nil
	}
	if !held {
		x.beginStream(answer)
	}
	began := time.Now()
	err := answer.Pump(write)
	x.usage = answer.Usage
	x.logContent(func() string { return streamText(all) })
	var told *wire.Error
	switch {
	case err == nil && held:
		if err := x.guardStream(all); err != nil {
			return err
		}
		answer.Waited += time.Since(began)
		x.beginStream(answer)
		_ = x.out.write(all, true) // the client is gone when this fails
	case err == nil:
	case held:
		return err
	case errors.As(err, &told) && x.r.Context().Err() == nil:
		x.failed = err
		_ = x.out.write(x.f.errorEvent(nil, told), true)
		panic(http.ErrAbortHandler) // a cut answer must not look whole
	default:
		x.failed = err
		panic(http.ErrAbortHandler)
	}
	x.w.Header().Set("X-Ai-Cost", x.reservation.Cost().String()) // a trailer
	return nil
}

func (x *exchange) beginStream(answer *upstream.Answer) {
	x.begin(answer.Attempts, answer.Waited)
	h := x.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	h.Set("Trailer", "X-Ai-Cost")
}

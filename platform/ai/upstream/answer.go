package upstream

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

// Answer is what an upstream has answered, in the client's format.
type Answer struct {
	// Body is the answer; nil when it comes in parts, see Pump.
	Body []byte
	// Model is what answered, as the price catalogue calls it.
	Model      ai.Model
	Deployment string
	// Attempts is how many it took, and Waited how long they took until the answer, or
	// its first part, was there.
	Attempts int
	Waited   time.Duration
	// Usage is what was used, once that is known.
	Usage  ai.Usage
	Source ai.Source

	part *part
}

// InParts reports whether the answer comes in parts.
func (a *Answer) InParts() bool { return a.part != nil }

// Close ends the answer. What has not been read by then is not read any more. It may be
// called again.
func (a *Answer) Close() {
	if a.part != nil {
		a.part.stop(failure{outcome: ClientGone, err: wire.Cut()})
	}
}

// Pump gives frames to write as they come, until the answer has ended. An error of
// write ends the call. Any other is a *wire.Error that the client must be told: the
// answer is not whole.
func (a *Answer) Pump(write func(frames []byte) error) error {
	err := a.part.pump(write)
	a.Usage, a.Source = a.part.run.usage, a.part.source
	return err
}

// part is an answer that comes in parts.
type part struct {
	run    *run
	ctx    context.Context //nolint:containedctx // that of the attempt, which goes on after the first part
	body   io.ReadCloser
	reader *sse.Reader
	stream wire.Stream
	frames []byte
	source ai.Source
}

// framesBytesMax bounds what is put together of events that came at once.
const framesBytesMax = 32 << 10

// drainMax is how long a stream that has ended is waited for to close, so that its
// connection can be used again.
const drainMax = 100 * time.Millisecond

// begin reads up to the first frames for the client.
func (p *part) begin() *failure {
	for len(p.frames) == 0 {
		e, err := p.reader.Next()
		if err != nil {
			failed := p.broken(err)
			return &failed
		}
		p.run.wait(p.run.idle())
		if p.frames, err = p.stream.Event(p.frames, e); err != nil {
			failed := p.run.wrong(err)
			return &failed
		}
	}
	return nil
}

func (p *part) broken(err error) failure {
	if errors.Is(err, sse.ErrTooLarge) {
		return failure{outcome: BadAnswer, err: wire.BadAnswer("an event is too large")}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return broken(p.ctx, err, true)
}

func (p *part) pump(write func([]byte) error) error {
	for {
		if len(p.frames) > 0 {
			p.run.watch.Stop() // a client that is slow is no upstream that is silent
			if err := write(p.frames); err != nil {
				p.stop(failure{outcome: ClientGone, err: wire.Cut()})
				return err
			}
			p.frames = p.frames[:0]
		}
		if p.stream.Ended() {
			p.settle()
			return nil
		}
		if failed := p.next(); failed != nil {
			// What came before the failure goes to the client first.
			if len(p.frames) > 0 && failed.outcome != ClientGone {
				_ = write(p.frames) // the failure is told all the same
			}
			p.stop(*failed)
			return failed.err
		}
	}
}

// next reads an event, and those that came with it.
func (p *part) next() *failure {
	for {
		if !p.reader.Ready() {
			p.run.wait(p.run.idle())
		}
		e, err := p.reader.Next()
		if err != nil {
			failed := p.broken(err)
			return &failed
		}
		if p.frames, err = p.stream.Event(p.frames, e); err != nil {
			failed := p.run.wrong(err)
			return &failed
		}
		if p.stream.Ended() || len(p.frames) > framesBytesMax || !p.reader.Ready() {
			return nil
		}
	}
}

// settle ends an answer that is whole.
func (p *part) settle() {
	r := p.run
	usage, told := p.stream.Usage()
	p.source = ai.Reported
	if !told {
		usage, p.source = r.estimate(p.stream.Written()), ai.Estimated
	}
	r.wait(drainMax)
	for {
		if _, err := p.reader.Next(); err != nil {
			break
		}
	}
	r.usage = usage
	r.book.Settle(usage, p.source)
	p.finish(failure{outcome: Answered})
}

// stop ends an answer that is not whole. What was seen of it is told to the books.
func (p *part) stop(f failure) {
	usage, told := p.stream.Usage()
	if !told {
		estimate := p.run.estimate(p.stream.Written())
		if usage.InputTotal() == 0 {
			usage.Input = estimate.Input
		}
		usage.Output = max(usage.Output, estimate.Output)
	}
	if !p.run.stopping.Load() {
		p.run.usage, p.source = usage, ai.Estimated
	}
	p.finish(f)
}

func (p *part) finish(f failure) {
	p.run.end(f)
	_ = p.body.Close()
}

func formatInt(n int64) string { return strconv.FormatInt(n, 10) }

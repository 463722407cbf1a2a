package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/wire"
	"github.com/countermand/countermand/platform/ai/wire/sse"
)

const (
	answerBytesMax = 32 << 20
	errorBytesMax  = 64 << 10
	eventBytesMax  = 8 << 20
)

// run is one attempt under way.
type run struct {
	plan          *Plan
	deployment    *deployment
	slot          slot
	upstreamModel string
	model         ai.Model
	exchange      *wire.Exchange
	book          Attempt
	began         time.Time
	deadline      time.Time // of the call with all its attempts
	tell          func(Ended)

	cancel   context.CancelCauseFunc
	watch    *time.Timer
	left     atomic.Bool
	usage    ai.Usage
	stopping atomic.Bool
}

// prepare makes the request as the upstream wants it. Its error is the client's fault.
func (r *run) prepare() *wire.Error {
	q, d := &r.plan.request, r.deployment
	o := q.Body
	if d.OutputMax > 0 && q.Format != wire.Embeddings && outputAsked(q.Format, o) == 0 {
		o = o.Clone()
		o.Set(r.outputField(), formatInt(d.OutputMax))
	}
	options := wire.Options{
		Model: r.upstreamModel, Stream: q.Stream, UsageAsked: q.UsageAsked, CompletionTokens: d.provider.CompletionTokens,
	}
	if insists(d.provider.Wire, q.Format) {
		options.OutputMax = outputInsisted
	}
	x, err := builders[d.provider.Wire][q.Format](o, options)
	if err != nil {
		if invalid, ok := errors.AsType[*wire.Error](err); ok {
			return invalid
		}
		return wire.Invalid("", "The request cannot be told to this model.")
	}
	r.exchange = x
	return nil
}

func (r *run) outputField() string {
	switch {
	case r.plan.request.Format == wire.Responses:
		return "max_output_tokens"
	case r.plan.request.Format == wire.Chat && r.deployment.provider.CompletionTokens:
		return "max_completion_tokens"
	}
	return "max_tokens"
}

// send sends the request and reads the answer, or its first part.
func (r *run) send(ctx context.Context) (*Answer, failure) {
	ctx, r.tell = r.plan.router.observer.begin(ctx, Observed{Format: r.plan.request.Format, Deployment: r.deployment.name, Model: r.model})
	ctx, r.cancel = context.WithCancelCause(ctx)
	r.watch = time.AfterFunc(r.patience(orDefault(r.plan.model.FirstByte, FirstByteDefault)), func() {
		cause := errSilent
		if !time.Now().Before(r.deadline) {
			cause = errTotal
		}
		r.cancel(cause)
	})
	request, err := r.request(ctx)
	if err != nil {
		return nil, failure{outcome: NotSent, free: true, blame: true, again: true, leave: true, err: wire.BadAnswer("its address is wrong")}
	}
	response, err := r.deployment.provider.transport.RoundTrip(request)
	if err != nil {
		return nil, broken(ctx, err, r.left.Load())
	}
	if response.StatusCode != http.StatusOK {
		defer func() { _ = response.Body.Close() }()
		told, err := io.ReadAll(io.LimitReader(response.Body, errorBytesMax))
		if err != nil && len(told) == 0 && ctx.Err() != nil {
			return nil, broken(ctx, err, true)
		}
		return nil, r.refused(r.exchange.Failure(response.StatusCode, told), response.Header)
	}
	if r.plan.request.Stream {
		return r.firstPart(ctx, response)
	}
	return r.whole(ctx, response)
}

// wait bounds how long the upstream may be silent from now on.
func (r *run) wait(d time.Duration) { r.watch.Reset(r.patience(d)) }

// patience is d, or what is left of the call's time.
func (r *run) patience(d time.Duration) time.Duration { return min(d, time.Until(r.deadline)) }

func (r *run) idle() time.Duration { return orDefault(r.plan.model.Idle, IdleDefault) }

// paced reads an answer of which every part must come within the time for one.
type paced struct {
	run  *run
	body io.Reader
}

// Read reads a part.
func (p paced) Read(data []byte) (int, error) {
	p.run.wait(p.run.idle())
	return p.body.Read(data)
}

func (r *run) request(ctx context.Context) (*http.Request, error) {
	p := r.deployment.provider
	if p.Wire == Simulated {
		r.left.Store(true)
	} else {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { r.left.Store(true) }})
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.BaseURL+r.exchange.Path, bytes.NewReader(r.exchange.Body))
	if err != nil {
		return nil, err
	}
	h := request.Header
	h.Set("Content-Type", "application/json")
	h.Set("Accept-Encoding", "identity")
	h.Set("User-Agent", "countermand")
	if r.plan.request.Stream {
		h.Set("Accept", "text/event-stream")
	} else {
		h.Set("Accept", "application/json")
	}
	if r.exchange.Response == nil { // the client speaks the upstream's format
		maps.Copy(h, r.plan.request.Header)
	}
	maps.Copy(h, r.exchange.Header)
	for name, value := range p.Header {
		h.Set(name, value)
	}
	p.keys.sign(h, p.Auth, r.slot.key)
	return request, nil
}

// whole reads an answer that comes at once.
func (r *run) whole(ctx context.Context, response *http.Response) (*Answer, failure) {
	defer func() { _ = response.Body.Close() }()
	data, err := readBounded(paced{r, response.Body}, response.ContentLength)
	if errors.Is(err, errTooLarge) {
		return nil, failure{outcome: BadAnswer, err: wire.BadAnswer("it is too large")}
	}
	if err != nil {
		return nil, broken(ctx, err, true)
	}
	if !isObject(data) {
		return nil, r.wrong(wire.BadAnswer("it is no JSON object"))
	}
	upstream := data
	usage, source := r.count(upstream, int64(len(upstream)))
	r.usage = usage
	if r.exchange.Response != nil {
		if data, err = r.exchange.Response(upstream); err != nil {
			return nil, r.wrong(err)
		}
	}
	r.book.Settle(usage, source)
	r.end(failure{outcome: Answered})
	return &Answer{Body: data, Model: r.model, Deployment: r.deployment.name, Usage: usage, Source: source}, failure{}
}

// count reads the usage of an answer, or estimates it.
func (r *run) count(upstream []byte, written int64) (ai.Usage, ai.Source) {
	if usage, told := r.exchange.Usage(upstream); told {
		return usage, ai.Reported
	}
	return r.estimate(written), ai.Estimated
}

// textBytesPerToken is what a token of output is taken for.
const textBytesPerToken = 4

func (r *run) estimate(written int64) ai.Usage {
	usage := ai.Usage{Input: r.plan.input}
	if r.plan.request.Format != wire.Embeddings {
		usage.Output = written/textBytesPerToken + 1
	}
	return usage
}

// firstPart begins to read an answer in parts. Until the first part is there, another
// deployment may take over.
func (r *run) firstPart(ctx context.Context, response *http.Response) (*Answer, failure) {
	if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		defer func() { _ = response.Body.Close() }()
		told, _ := io.ReadAll(io.LimitReader(response.Body, errorBytesMax))
		if e := r.exchange.Failure(http.StatusBadGateway, told); e.Code != "upstream_error" {
			return nil, r.refused(e, response.Header)
		}
		return nil, r.wrong(wire.BadAnswer("it is no stream"))
	}
	part := &part{
		run: r, ctx: ctx, body: response.Body, reader: sse.NewReader(response.Body, eventBytesMax), stream: r.exchange.Stream(),
	}
	if failed := part.begin(); failed != nil {
		_ = response.Body.Close()
		return nil, *failed
	}
	return &Answer{Model: r.model, Deployment: r.deployment.name, part: part}, failure{}
}

// end closes the books of an attempt, gives its slot back and tells of it. Only the
// first end counts.
func (r *run) end(f failure) {
	if !r.stopping.CompareAndSwap(false, true) {
		return
	}
	r.watch.Stop()
	r.cancel(nil)
	switch {
	case f.outcome == Answered: // settled
	case f.free:
		r.book.Release(string(f.outcome))
	default:
		r.book.Uncertain(string(f.outcome), r.usage)
	}
	var blamed, failed error
	if f.err != nil {
		failed = f.err
	}
	switch {
	case f.blame:
		blamed = failed
	case f.outcome == ClientGone:
		blamed = errUntried
	}
	r.slot.leave(blamed)
	r.tell(Ended{Outcome: f.outcome, Usage: r.usage, Err: failed})
}

// isObject tells a JSON object from what else comes with 200, such as the page of a
// proxy, by its ends.
func isObject(data []byte) bool {
	data = bytes.TrimSpace(data)
	return len(data) > 1 && data[0] == '{' && data[len(data)-1] == '}'
}

var errTooLarge = errors.New("the answer is too large")

// readBounded reads a body of that length; -1: nobody knows it.
func readBounded(body io.Reader, length int64) ([]byte, error) {
	if length > answerBytesMax {
		return nil, errTooLarge
	}
	var buffer bytes.Buffer
	if length > 0 {
		buffer.Grow(int(length) + bytes.MinRead)
	}
	n, err := buffer.ReadFrom(io.LimitReader(body, answerBytesMax+1))
	if n > answerBytesMax {
		return nil, errTooLarge
	}
	return buffer.Bytes(), err
}

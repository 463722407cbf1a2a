package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/countermand/countermand/events"
)

// ErrNotFound is returned by [Operations] for an id it does not know.
var ErrNotFound = errors.New("operation not found")

// Operations is what the gateway knows operations from: the saga reader.
type Operations interface {
	// Get returns the operation as it stands, ErrNotFound when there is none, and
	// any other error when that cannot be told now.
	Get(ctx context.Context, id string) (Operation, error)
	// Changed returns those of the operations whose revision is not the one that was
	// seen, in no order. It leaves out what it does not know.
	Changed(ctx context.Context, seen []Seen) ([]Operation, error)
	// List returns a page of operations, newest first, without their steps, results
	// and errors. The error is ErrBadCursor when no page had that cursor.
	List(ctx context.Context, filter OperationFilter) (OperationPage, error)
}

// Seen is an operation and the revision in which somebody has it; 0 for none.
type Seen struct {
	ID       string
	Revision int64
}

// Status is where an operation stands.
type Status string

// The statuses of an operation. Accepted means that its command is stored and
// the engine has not shown it yet.
const (
	StatusAccepted     Status = "accepted"
	StatusRunning      Status = "running"
	StatusCompensating Status = "compensating"
	StatusCompleted    Status = "completed"
	StatusCompensated  Status = "compensated"
	StatusStuck        Status = "stuck"
	StatusAbandoned    Status = "abandoned"
)

// done reports whether the status is final.
func (s Status) done() bool {
	return s == StatusCompleted || s == StatusCompensated || s == StatusAbandoned
}

// settled reports whether waiting any longer is of no use: the status is final,
// or only a person can change it.
func (s Status) settled() bool { return s.done() || s == StatusStuck }

// Operation is what a command became: the saga it started. [Operations] leaves
// Done and Error to the gateway.
type Operation struct {
	ID        string          `json:"id"`
	Status    Status          `json:"status"`
	Done      bool            `json:"done"`
	Saga      *SagaVersion    `json:"saga,omitempty"`
	Steps     []StepProgress  `json:"steps"`
	Result    json.RawMessage `json:"result,omitempty"` // JSON, once completed
	Error     *Problem        `json:"error,omitempty"`  // once compensated or abandoned
	CreatedAt time.Time       `json:"created_at,omitzero"`
	UpdatedAt time.Time       `json:"updated_at,omitzero"` // changes with everything above

	// Command is the type of the command that began the operation; its route
	// tells which status the outcome is answered with.
	Command string `json:"-"`
	// Fingerprint is the extension of that name which the command carried.
	Fingerprint string `json:"-"`
	// Rejection is why the operation is or will be compensated; nil when it was
	// not a rejection.
	Rejection *events.Rejection `json:"-"`
	// Revision counts the changes of the operation.
	Revision int64 `json:"-"`
	// Tenant owns the operation; empty: nobody does.
	Tenant string `json:"-"`
	// Pivoted says that it can no longer be undone.
	Pivoted bool `json:"-"`
	// Partial says that the operation is what an outcome event tells: id, status,
	// saga, result and rejection.
	Partial bool `json:"-"`
}

// SagaVersion names the definition that an operation runs by.
type SagaVersion struct {
	Name    string `json:"name"`
	Version int    `json:"version"`
}

// StepProgress tells how far one step of an operation is.
type StepProgress struct {
	Name     string `json:"name"`
	Status   string `json:"status"`
	Attempts int    `json:"attempts"`
}

func operationPath(id string) string { return "/v1/operations/" + id }

// present sets what the gateway adds to an operation that is shown.
func (o *outcome) present(op *Operation) {
	op.Done = op.Status.done()
	op.Error = o.problem(op)
	if op.Steps == nil {
		op.Steps = []StepProgress{}
	}
}

// etag returns a weak validator of the operation: it changes with the status
// and with every progress, and not with the words of an error.
func (op *Operation) etag() string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(op.Status))
	_, _ = h.Write(strconv.AppendInt(nil, op.UpdatedAt.UnixNano(), 36))
	return `W/"` + strconv.FormatUint(h.Sum64(), 36) + `"`
}

// matchesETag evaluates If-None-Match by weak comparison (RFC 9110 §13.1.2).
func matchesETag(ifNoneMatch []string, etag string) bool {
	etag = strings.TrimPrefix(etag, "W/")
	for _, line := range ifNoneMatch {
		for candidate := range strings.SplitSeq(line, ",") {
			candidate = strings.TrimPrefix(strings.TrimSpace(candidate), "W/")
			if candidate == "*" || candidate == etag {
				return true
			}
		}
	}
	return false
}

// serveOperation answers GET /v1/operations/{id}. With Prefer: wait it answers
// once the operation is settled or, when the client has a version of it, once
// that has changed.
func (g *Gateway) serveOperation(x *exchange, r *http.Request, s *snapshot) {
	q, ok := g.inquire(x, r, "What became of the operation cannot be told now.")
	if !ok {
		return
	}
	defer q.waiter.leave()
	op := q.op
	known := r.Header["If-None-Match"]
	if q.waiter != nil {
		news := func(op *Operation) bool {
			return op.Status.settled() || len(known) > 0 && !matchesETag(known, op.etag())
		}
		op = g.await(r.Context(), q.waiter, op, q.until, news)
	}
	g.writeOperation(x, r, s, &op, q.applied)
}

// inquiry is a request about one operation that may wait for it.
type inquiry struct {
	id      string
	op      Operation // as it was found
	applied string    // for Preference-Applied; empty: nothing was
	waiter  *waiter   // nil: the request does not wait
	until   time.Time // for how long it does
}

// inquire finds the operation that the path names, after registering to wait for it
// when the client prefers that, so that nothing is missed in between. It answers the
// request itself when it returns false; otherwise the caller has the waiter leave.
func (g *Gateway) inquire(x *exchange, r *http.Request, unavailable string) (q inquiry, ok bool) {
	received := time.Now()
	q.id = r.PathValue("id")
	id, ok := parseOperationID(q.id)
	if !ok {
		x.fail(r, codeOperationNotFound, "")
		return q, false
	}
	prefer := parsePrefer(r.Header["Prefer"])
	if why := prefer.refusal(g.config.WaitMax); why != "" {
		x.fail(r, codePreferenceRefused, why)
		return q, false
	}
	wait, applied := prefer.within(0, g.config.WaitMax)
	if q.applied, q.until = applied, received.Add(wait); wait > 0 {
		if q.waiter = g.waiters.register(q.id, nil); q.waiter == nil {
			q.applied = prefer.withHandling("")
		}
	}
	if q.op, ok = g.findOrFail(x, r, id, q.id, unavailable); !ok {
		q.waiter.leave()
	}
	return q, ok
}

// errGone means that the gateway gave the id so long ago that the operation is no
// longer kept.
var errGone = errors.New("operation is no longer kept")

const goneDetail = "The operation began so long ago that it is no longer kept."

// find returns the operation that the sender of the request may see; errGone or
// ErrNotFound when there is none. text is the id as a text.
func (g *Gateway) find(ctx context.Context, id operationID, text string) (Operation, error) {
	tenant := IdentityOf(ctx).Tenant
	authentic := g.mint.authentic(id, tenant)
	if tenant != "" && !authentic {
		return Operation{}, ErrNotFound
	}
	op, err := g.lookUp(ctx, text)
	switch {
	case err == nil && tenant == "" && op.Tenant != "": // which its id alone gives away to nobody
		return Operation{}, ErrNotFound
	case !errors.Is(err, ErrNotFound) || !authentic:
		return op, err
	}
	mintedAt := id.mintedAt()
	if !id.keyed() && time.Since(mintedAt) > g.config.AcceptedAgeMax {
		if waits, err := g.waits(ctx, mintedAt); err != nil || !waits {
			return Operation{}, cmp.Or(err, errGone)
		}
	}
	return Operation{ID: text, Status: StatusAccepted, CreatedAt: mintedAt, UpdatedAt: mintedAt}, nil
}

// findOrFail is find, and answers when there is no operation.
func (g *Gateway) findOrFail(x *exchange, r *http.Request, id operationID, text, detail string) (Operation, bool) {
	op, err := g.find(r.Context(), id, text)
	switch {
	case err == nil:
		return op, true
	case errors.Is(err, errGone):
		x.fail(r, codeOperationExpired, goneDetail)
	case errors.Is(err, ErrNotFound):
		x.fail(r, codeOperationNotFound, "")
	default:
		g.failOperations(x, r, err, detail)
	}
	return Operation{}, false
}

func (g *Gateway) writeOperation(x *exchange, r *http.Request, s *snapshot, op *Operation, applied string) {
	s.table.outcomeOf(op.Command).present(op)
	etag := op.etag()
	h := x.Header()
	h.Set("ETag", etag)
	h.Set("Vary", "Prefer")
	if applied != "" {
		h.Set("Preference-Applied", applied)
	}
	if op.Done {
		h.Set("Cache-Control", "private, no-cache")
	} else {
		h.Set("Cache-Control", noStore)
		h.Set("Retry-After", "1")
	}
	if matchesETag(r.Header["If-None-Match"], etag) {
		x.WriteHeader(http.StatusNotModified)
		return
	}
	g.writeDocument(x, r, http.StatusOK, op)
}

func (g *Gateway) writeDocument(x *exchange, r *http.Request, status int, op *Operation) {
	body, err := encode(op)
	if err != nil {
		x.failInternal(r, "encode operation "+op.ID, err)
		return
	}
	x.json(status, contentTypeJSON, body)
}

// lookUp is Operations.Get within the lookup timeout.
func (g *Gateway) lookUp(ctx context.Context, id string) (Operation, error) {
	ctx, cancel := context.WithTimeout(ctx, g.config.LookupTimeout)
	defer cancel()
	g.metrics.reads.Inc()
	return g.deps.Operations.Get(ctx, id)
}

// changed is Operations.Changed, counted.
func (g *Gateway) changed(ctx context.Context, seen []Seen) ([]Operation, error) {
	g.metrics.reads.Inc()
	return g.deps.Operations.Changed(ctx, seen)
}

// await waits until enough says so of the operation, which is read when an outcome
// tells of it, and at every poll interval in case that was lost; or until time is up,
// the gateway drains or the client has gone. It returns the operation as last seen.
func (g *Gateway) await(ctx context.Context, w *waiter, op Operation, until time.Time, enough func(*Operation) bool) Operation {
	if enough(&op) {
		return op
	}
	poll := time.NewTicker(g.config.PollInterval)
	defer poll.Stop()
	end := time.NewTimer(time.Until(until))
	defer end.Stop()
	for {
		select {
		case op = <-w.seen:
			if enough(&op) {
				return op
			}
		case <-poll.C:
			g.waiters.wake(w.id)
		case <-end.C: // one more look, should its outcome be on the way
			if seen, err := g.lookUp(ctx, w.id); err == nil {
				return seen
			}
			return op
		case <-g.draining:
			return op
		case <-ctx.Done():
			return op
		}
	}
}

func (g *Gateway) failOperations(x *exchange, r *http.Request, err error, detail string) {
	if r.Context().Err() == nil { // else it failed because the client has gone
		g.logger.WarnContext(r.Context(), "operations cannot be read", slog.Any("error", err))
	}
	x.failLater(r, codeOperationsUnavailable, detail)
}

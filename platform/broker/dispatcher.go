package broker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// DispatcherConfig of a [Dispatcher]. The zero value of a field is its default.
type DispatcherConfig struct {
	// Name labels the dispatcher in logs and metrics, such as "inventory".
	Name string
	// Max and BytesMax bound the messages that wait in memory and their data: 10,000
	// and 64 MiB by default.
	Max, BytesMax int
	// Patience is how long Send waits for room before it gives messages up: 1 s by
	// default.
	Patience time.Duration
	Logger   *slog.Logger
	Metrics  prometheus.Registerer // nil: metrics are kept but not registered
}

func (c DispatcherConfig) withDefaults() DispatcherConfig {
	if c.Name == "" {
		c.Name = "dispatcher"
	}
	if c.Max == 0 {
		c.Max = 10_000
	}
	if c.BytesMax == 0 {
		c.BytesMax = 64 << 20
	}
	if c.Patience == 0 {
		c.Patience = time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Dispatcher publishes messages from memory in shared batches, for senders that
// do not wait: what arrives while one batch is on its way forms the next. A
// broker that is away is tried again and again, in order, so that messages of
// one key keep theirs. Messages are lost when the process dies, when there is no
// room for them for longer than Patience, and when the broker will never take
// them. So it is for messages that somebody asks for again, such as the reply to
// a command; what must arrive goes through the outbox.
//
// They go out without their publish ids. Who takes messages that are asked for again knows
// copies by the event's id and not only for a while, so brokers need not remember those.
//
// Make it with [NewDispatcher] and have Run run. It is safe for concurrent use.
type Dispatcher struct {
	publisher Publisher
	config    DispatcherConfig

	mu      sync.Mutex
	waiting []Message
	held    int           // messages that wait or that Run has in hand
	bytes   int           // of their data
	ended   bool          // Run has returned
	room    chan struct{} // closed and replaced when messages have been published
	arrived chan struct{} // capacity 1

	published *prometheus.CounterVec // by outcome
}

// NewDispatcher returns a dispatcher to publisher.
func NewDispatcher(publisher Publisher, config DispatcherConfig) *Dispatcher {
	config = config.withDefaults()
	d := &Dispatcher{
		publisher: publisher, config: config, room: make(chan struct{}), arrived: make(chan struct{}, 1),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "countermand_dispatcher_published_total", ConstLabels: prometheus.Labels{"dispatcher": config.Name},
			Help: "Messages published from memory by what became of them.",
		}, []string{"outcome"}),
	}
	if config.Metrics != nil {
		config.Metrics.MustRegister(d.published)
	}
	return d
}

// Send hands messages over to be published in this order. It waits only while
// there is no room, and then at most for Patience; what finds none is given up.
func (d *Dispatcher) Send(messages ...Message) {
	if len(messages) == 0 {
		return
	}
	var late <-chan time.Time
	bytes := bytesOf(messages)
	for {
		d.mu.Lock()
		// An empty dispatcher takes any number at once, or a large batch never fits.
		fits := d.held+len(messages) <= d.config.Max && d.bytes+bytes <= d.config.BytesMax
		if !d.ended && (d.held == 0 || fits) {
			d.waiting = append(d.waiting, messages...)
			d.held, d.bytes = d.held+len(messages), d.bytes+bytes
			d.mu.Unlock()
			select {
			case d.arrived <- struct{}{}:
			default:
			}
			return
		}
		room, ended := d.room, d.ended
		d.mu.Unlock()
		if ended {
			d.giveUp(messages, "the dispatcher has ended")
			return
		}
		if late == nil {
			late = time.After(d.config.Patience)
		}
		select {
		case <-room:
		case <-late:
			d.giveUp(messages, "there is no room for them")
			return
		}
	}
}

func bytesOf(messages []Message) (n int) {
	for i := range messages {
		n += len(messages[i].Event.Data)
	}
	return n
}

func (d *Dispatcher) giveUp(messages []Message, reason string) {
	d.published.WithLabelValues("given_up").Add(float64(len(messages)))
	d.config.Logger.Warn("messages are given up; who needs them asks again",
		"dispatcher", d.config.Name, "messages", len(messages), "reason", reason, "first", messages[0].Event.ID)
}

// Limits of Run.
const (
	dispatchRestMin = 20 * time.Millisecond // after the broker refused a batch, doubling
	dispatchRestMax = 2 * time.Second
	dispatchDrain   = 2 * time.Second // for what is left when it is told to stop
)

// Run publishes until ctx ends and returns nil then. What is left at that point
// is tried for two seconds more. Call it once.
func (d *Dispatcher) Run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(dispatchDrain, cancel) })
	defer stop()
	var (
		batch []Message
		rest  time.Duration
	)
	for work.Err() == nil {
		if batch = d.take(batch); len(batch) == 0 {
			if ctx.Err() != nil {
				break
			}
			select {
			case <-d.arrived:
			case <-ctx.Done():
			}
			continue
		}
		sent := batch
		if batch = d.publish(work, sent); len(batch) < len(sent) {
			rest = 0
			d.settle(len(sent)-len(batch), bytesOf(sent)-bytesOf(batch))
		}
		if len(batch) > 0 {
			rest = min(max(2*rest, dispatchRestMin), dispatchRestMax)
			select {
			case <-time.After(rest):
			case <-work.Done():
			}
		}
	}
	d.mu.Lock()
	d.ended = true
	batch = append(batch, d.waiting...)
	d.waiting = nil
	close(d.room)
	d.mu.Unlock()
	if len(batch) > 0 {
		d.giveUp(batch, "the dispatcher has ended")
	}
	return nil
}

// take fills batch up with what waits.
func (d *Dispatcher) take(batch []Message) []Message {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(d.waiting), BatchMessagesMax/2-len(batch))
	for _, message := range d.waiting[:n] {
		message.PublishID = ""
		batch = append(batch, message)
	}
	if d.waiting = d.waiting[n:]; len(d.waiting) == 0 {
		d.waiting = nil // and the array with the payloads in it
	}
	return batch
}

// settle makes room for as much as is done with.
func (d *Dispatcher) settle(messages, bytes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held, d.bytes = d.held-messages, d.bytes-bytes
	close(d.room)
	d.room = make(chan struct{})
}

// publish returns the messages that are to be tried again, in order.
func (d *Dispatcher) publish(ctx context.Context, batch []Message) (left []Message) {
	var stored, failed int
	var reason error
	for i, receipt := range d.publisher.PublishBatch(ctx, batch) {
		switch {
		case receipt.Err == nil:
			stored++
		case errors.Is(receipt.Err, ErrRejected):
			d.published.WithLabelValues("rejected").Inc()
			d.config.Logger.ErrorContext(ctx, "message will never be taken by the broker", "dispatcher", d.config.Name,
				"topic", batch[i].Topic, "event_id", batch[i].Event.ID, "event_type", batch[i].Event.Type,
				"saga_id", batch[i].Event.CorrelationID, "error", receipt.Err)
		default:
			left = append(left, batch[i])
			failed++
			if reason == nil { // one reason says it all; a batch has hundreds
				reason = receipt.Err
			}
		}
	}
	for outcome, n := range map[string]int{"stored": stored, "failed": failed} {
		if n > 0 {
			d.published.WithLabelValues(outcome).Add(float64(n))
		}
	}
	if failed > 0 {
		d.config.Logger.WarnContext(ctx, "dispatcher waits for the broker", "dispatcher", d.config.Name, "waiting", failed, "error", reason)
	}
	return left
}

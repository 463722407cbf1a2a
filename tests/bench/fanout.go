package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// audience is the followers of a fan-out, and what they have seen.
type audience struct {
	base      string
	sent      []atomic.Int64 // when, by number of the event; in Unix nanoseconds
	seen      [][]uint8      // by follower and number: how often
	resumed   atomic.Int64
	mu        sync.Mutex
	latencies []time.Duration // of every hundredth
}

// fanOut publishes at a fixed rate and accounts for each event at each follower.
func (s *system) fanOut(ctx context.Context, options options, report *Report) error {
	total := int(options.duration.Seconds()) * fanOutRate
	a := &audience{base: s.dev.HTTP, sent: make([]atomic.Int64, total), seen: make([][]uint8, fanOutFollowers)}
	options.say("fan-out: %d followers, %d events per second", fanOutFollowers, fanOutRate)
	reading, stop := context.WithTimeout(ctx, options.duration+time.Minute)
	defer stop()
	var following sync.WaitGroup
	failed := make(chan error, fanOutFollowers) // one place each
	for i := range fanOutFollowers {
		a.seen[i] = make([]uint8, total)
		f, err := openFollower(reading, a.base, "", 64<<10)
		if err != nil {
			return err
		}
		following.Go(func() {
			if err := a.follow(reading, f, a.seen[i]); err != nil {
				failed <- err
				stop()
			}
		})
	}
	before, err := s.measure(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	stored, err := a.publish(ctx)
	if err != nil {
		stop()
		return err
	}
	published := time.Since(began)
	following.Wait()
	took := time.Since(began)
	after, err := s.measure(ctx)
	if err != nil {
		return err
	}
	var lost, twice int
	for _, seen := range a.seen {
		for n := range seen {
			switch {
			case seen[n] == 0:
				lost++
			case seen[n] > 1:
				twice++
			}
		}
	}
	select {
	case err := <-failed:
		if lost == 0 {
			return err
		}
		options.say("%v", err)
	default:
	}
	cpu := after.Go - before.Go
	report.add("events_per_second", float64(stored)/published.Seconds(), "1/s")
	report.add("deliveries_per_second", float64(stored)*fanOutFollowers/took.Seconds(), "1/s")
	report.add("events_lost", float64(lost), "")
	report.add("events_twice", float64(twice), "")
	report.add("resumed", float64(a.resumed.Load()), "")
	report.add("cpu_us_per_event", float64(cpu.Microseconds())/float64(stored), "µs")
	report.add("cpu_us_per_delivery", float64(cpu.Microseconds())/float64(stored)/fanOutFollowers, "µs")
	report.add("p50_ms", quantile(a.latencies, 0.50), "ms")
	report.add("p99_ms", quantile(a.latencies, 0.99), "ms")
	if lost > 0 {
		return fmt.Errorf("%d deliveries were lost", lost)
	}
	return nil
}

// follow reads until every event was seen, and goes on from its position when it is
// cut off.
func (a *audience) follow(ctx context.Context, f *follower, seen []uint8) error {
	defer func() { f.close() }()
	unblock := context.AfterFunc(ctx, func() { f.close() })
	defer unblock()
	var mine []time.Duration
	for missing := len(seen); missing > 0; {
		data, err := f.read()
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("%d events have not come: %w", missing, ctx.Err())
			}
			a.resumed.Add(1)
			f.close()
			next, err := openFollower(ctx, a.base, f.last, 64<<10)
			if err != nil {
				return fmt.Errorf("go on: %w", err)
			}
			unblock()
			f = next
			unblock = context.AfterFunc(ctx, func() { next.close() })
			continue
		}
		_, rest, ok := bytes.Cut(data, []byte(`"id":"n`))
		if !ok {
			continue // of another kind
		}
		end := bytes.IndexByte(rest, '"')
		n, err := strconv.Atoi(string(rest[:max(end, 0)]))
		if err != nil || n >= len(seen) {
			return fmt.Errorf("an event is %.100s", data)
		}
		if seen[n]++; seen[n] == 1 {
			missing--
		}
		if n%100 == 0 {
			mine = append(mine, time.Since(time.Unix(0, a.sent[n].Load())))
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.latencies = append(a.latencies, mine...)
	return nil
}

// publish sends batches over HTTP at the rate, and returns how many events are stored.
func (a *audience) publish(ctx context.Context) (int, error) {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	ticker := time.NewTicker(time.Second * fanOutBatch / fanOutRate)
	defer ticker.Stop()
	var sending sync.WaitGroup
	var failed atomic.Pointer[error]
	total := len(a.sent)
	for n := 0; n+fanOutBatch <= total; n += fanOutBatch {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return n, ctx.Err()
		}
		sending.Go(func() {
			if err := a.batch(ctx, client, n); err != nil {
				failed.Store(&err)
			}
		})
	}
	sending.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return total, nil
}

func (a *audience) batch(ctx context.Context, client *http.Client, from int) error {
	var body bytes.Buffer
	for n := from; n < from+fanOutBatch; n++ {
		separator := byte(',')
		if n == from {
			separator = '['
		}
		body.WriteByte(separator)
		fmt.Fprintf(&body, `{"specversion":"1.0","id":"n%d","source":"/bench","type":"shop.review.decided.v1","subject":"s%d","data":{"approved":true,"by":"bench","note":"%s"}}`, n, n%1000, notes)
		a.sent[n].Store(time.Now().UnixNano())
	}
	body.WriteByte(']')
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.base+"/v1/bench", &body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/cloudevents-batch+json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusAccepted {
		err = errors.New("a batch is answered " + response.Status + ": " + string(answer[:min(len(answer), 300)]))
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/countermand/countermand/events/shop"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/broker/natsbroker"
	"github.com/countermand/countermand/platform/embedded"
	"github.com/countermand/countermand/tests/internal/product"
)

// Values of --sync.
const (
	syncAlways  = "always"
	syncDefault = "default"
)

// The environment of the part jetstream.
const (
	acceptFolder = "COUNTERMAND_BENCH_ACCEPT_FOLDER"
	acceptSync   = "COUNTERMAND_BENCH_ACCEPT_SYNC"
)

// acceptBody is the size of a request's body in bytes.
const acceptBody = 1024

// accepting is a gateway and its broker, and a server that does nothing, each a process.
type accepting struct {
	gateway   *product.Process
	jetstream *part
	nothing   *part
	dir       string // of all of them
	folder    string // of JetStream
	ends      []func()
}

// acceptBench measures how many commands a gateway takes in, each checked against its
// schema and stored before the 202. No engine runs, so nobody reads them. A handler that
// does nothing gets the same requests from the same client in the same run.
func acceptBench(ctx context.Context, options options) (report Report, err error) {
	if options.clients == 0 {
		options.clients = 256
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // the load generator should cost little
	}
	report = Report{Machine: machine(), Load: map[string]any{
		"clients": options.clients, "duration_s": options.duration.Seconds(), "body_bytes": acceptBody, "sync": options.sync,
	}}
	a := &accepting{}
	defer a.stop()
	version, err := a.start(ctx, options)
	if err != nil {
		return report, err
	}
	report.Versions = version
	options.say("warming up")
	warm, err := a.closed(ctx, options.clients, 2*time.Second, a.gateway.HTTP, http.StatusAccepted, "")
	if err != nil {
		return report, err
	}
	options.say("closed loop: %d clients, sync %s", options.clients, options.sync)
	closed, err := a.closed(ctx, options.clients, options.duration, a.gateway.HTTP, http.StatusAccepted, options.profile)
	if err != nil {
		return report, err
	}
	options.say("closed loop: %d clients, a handler that does nothing", options.clients)
	nothing, err := a.closed(ctx, options.clients, options.duration, a.nothing.url, http.StatusOK, "")
	if err != nil {
		return report, err
	}
	rate := closed.rate / 2
	options.say("open loop: %.0f per second", rate)
	connections, err := openPosters(ctx, options.clients, a.gateway.HTTP+acceptPath, acceptOrder(), http.StatusAccepted, options.duration+time.Minute)
	if err != nil {
		return report, err
	}
	endFsyncs, err := fsyncs(a.dir)
	if err != nil {
		return report, err
	}
	open, dropped, err := openLoop(ctx, rate, options.duration, connections.post)
	connections.close()
	synced, failed := endFsyncs()
	if err = errors.Join(err, failed); err != nil {
		return report, err
	}
	report.Load["open_loop_per_second"] = rate
	stored, err := a.stored(ctx)
	if err != nil {
		return report, err
	}
	accepted := len(warm.took) + len(closed.took) + len(open)

	report.add("accepts_per_second", closed.rate, "1/s")
	report.add("cpu_us_per_request", closed.gateway, "µs")
	report.add("cpu_broker_us_per_request", closed.jetstream, "µs")
	report.add("cpu_client_us_per_request", closed.client, "µs")
	report.add("others_cores", closed.others, "cores")
	report.add("closed_p50_ms", quantile(closed.took, 0.50), "ms")
	report.add("closed_p99_ms", quantile(closed.took, 0.99), "ms")
	report.add("p50_ms", quantile(open, 0.50), "ms")
	report.add("p99_ms", quantile(open, 0.99), "ms")
	report.add("fsync_p99_ms", quantile(synced, 0.99), "ms")
	report.add("open_dropped", float64(dropped), "requests")
	report.add("nothing_per_second", nothing.rate, "1/s")
	report.add("nothing_cpu_us_per_request", nothing.nothing, "µs")
	report.add("per_second_to_nothing", closed.rate/nothing.rate, "ratio")
	report.add("cpu_to_nothing", closed.gateway/nothing.nothing, "ratio")
	report.add("accepted", float64(accepted), "requests")
	report.add("stored", float64(stored), "commands")
	if uint64(accepted) != stored {
		return report, fmt.Errorf("%d requests were accepted, and %d commands are stored", accepted, stored)
	}
	return report, nil
}

const acceptPath = "/v1/orders"

// acceptOrder returns an order of that many bytes with as many items as there is room
// for.
func acceptOrder() []byte {
	order := `{"customer":"%s","currency":"EUR","items":[%s],"payment":{"token":"tok_ok"}}`
	var items []string
	size := func() int { return len(order) - len("%s%s") + len(strings.Join(items, ",")) }
	for size() < acceptBody-100 {
		items = append(items, fmt.Sprintf(`{"sku":"TEA-%03d","quantity":1}`, len(items)))
	}
	return fmt.Appendf(nil, order, strings.Repeat("c", acceptBody-size()), strings.Join(items, ","))
}

// found is what a closed loop has shown; CPU is in microseconds per request.
type found struct {
	took []time.Duration
	rate float64

	gateway, jetstream, nothing, client float64
	others                              float64 // cores that other processes had
}

// closed has clients post orders one after another for that long.
func (a *accepting) closed(ctx context.Context, clients int, duration time.Duration, base string, want int, profileTo string) (f found, err error) {
	connections, err := openPosters(ctx, clients, base+acceptPath, acceptOrder(), want, duration+time.Minute)
	if err != nil {
		return f, err
	}
	defer connections.close()
	before, err := a.cpu()
	if err != nil {
		return f, err
	}
	if profileTo != "" {
		profiled := make(chan error, 1)
		go func() { profiled <- profile(ctx, a.gateway.Admin, duration-time.Second, profileTo) }()
		defer func() { err = errors.Join(err, <-profiled) }()
	}
	began := time.Now()
	if f.took, err = closedLoop(ctx, clients, duration, connections.post); err != nil {
		return f, err
	}
	n, elapsed := float64(len(f.took)), time.Since(began)
	after, err := a.cpu()
	if err != nil {
		return f, err
	}
	each := func(i int) float64 { return float64((after[i] - before[i]).Microseconds()) / n }
	f.rate = n / elapsed.Seconds()
	f.gateway, f.jetstream, f.nothing, f.client = each(0), each(1), each(2), each(3)
	all := after[4] - before[4]
	for i := range 4 {
		all -= after[i] - before[i]
	}
	f.others = max(0, all.Seconds()/elapsed.Seconds())
	return f, nil
}

// cpu returns what gateway, JetStream, the handler that does nothing, the load
// generator and the whole machine have used.
func (a *accepting) cpu() (used [5]time.Duration, err error) {
	for i, pid := range []int{a.gateway.PID, a.jetstream.pid, a.nothing.pid, os.Getpid()} {
		if used[i], err = cpuOfProcess(pid); err != nil {
			return used, err
		}
	}
	used[4], err = cpuOfMachine()
	return used, err
}

// start starts everything and returns the versions of it.
func (a *accepting) start(ctx context.Context, options options) (map[string]string, error) {
	dir, err := os.MkdirTemp("", "countermand-bench-")
	if err != nil {
		return nil, err
	}
	a.dir = dir
	a.ends = append(a.ends, func() { _ = os.RemoveAll(dir) })
	options.say("building")
	binary, err := product.Build(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	options.say("starting PostgreSQL, JetStream, the gateway and a handler that does nothing")
	// The gateway looks operations up there, which these requests do not need.
	database, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{DataDir: filepath.Join(dir, "postgres")})
	if err != nil {
		return nil, err
	}
	a.ends = append(a.ends, func() { _ = database.Stop(context.WithoutCancel(ctx)) })
	a.folder = filepath.Join(dir, "nats")
	url := "DATABASE_URL=" + database.AdminURL()
	result, err := product.Run(ctx, binary, []string{url}, "migrate", "engine")
	if err == nil && result.Code != 0 {
		err = errors.New(result.Stderr)
	}
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	if a.jetstream, err = startPart(ctx, "jetstream", acceptFolder+"="+a.folder, acceptSync+"="+options.sync); err != nil {
		return nil, err
	}
	a.ends = append(a.ends, a.jetstream.close)
	if a.nothing, err = startPart(ctx, "nothing"); err != nil {
		return nil, err
	}
	a.ends = append(a.ends, a.nothing.close)
	log, err := os.Create(filepath.Join(dir, "gateway.log"))
	if err != nil {
		return nil, err
	}
	a.ends = append(a.ends, func() { _ = log.Close() })
	a.gateway, err = product.Start(ctx, binary, log, []string{
		url, "NATS_URL=" + a.jetstream.url, "COUNTERMAND_SECRET=a secret of the benchmark alone", "COUNTERMAND_DRAIN_DELAY=none",
		"COUNTERMAND_HTTP_ADDR=127.0.0.1:0", "COUNTERMAND_ADMIN_ADDR=127.0.0.1:0",
	}, "serve", "gateway")
	if err != nil {
		content, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%w\n%s", err, content)
	}
	a.ends = append(a.ends, func() {
		if err := a.gateway.Stop(); err != nil {
			options.say("%v", err)
		}
	})
	return versions(binary, ""), nil
}

func (a *accepting) stop() {
	for len(a.ends) > 0 {
		last := len(a.ends) - 1
		a.ends[last]()
		a.ends = a.ends[:last]
	}
}

// stored ends gateway and JetStream and counts what JetStream finds on disk when it
// starts again.
func (a *accepting) stored(ctx context.Context) (uint64, error) {
	if err := a.gateway.Stop(); err != nil {
		return 0, err
	}
	a.jetstream.close()
	server, err := embedded.StartNATS(embedded.NATSConfig{StoreDir: a.folder})
	if err != nil {
		return 0, err
	}
	defer server.Stop()
	conn, err := server.Connect()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	b, err := natsbroker.New(conn, natsbroker.Config{})
	if err != nil {
		return 0, err
	}
	from := make(map[int]broker.Start)
	for partition := range b.Partitions() {
		from[partition] = broker.Start{} // its beginning
	}
	return b.Backlog(ctx, shop.RequestCheckout.Topic(), from)
}

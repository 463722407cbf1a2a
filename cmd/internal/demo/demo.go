package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countermand/countermand/cmd/internal/wire"
)

// Config of a demo.
type Config struct {
	Orders  int
	Seed    uint64
	Rate    int // orders per second; 0: as fast as they go
	Clients int
	DataDir string // empty: a temporary folder that is removed
	Broker  wire.BrokerConfig
	Logger  *slog.Logger
	Say     func(format string, args ...any) // tells a person what happens
}

// Run plays the demo and reports what it found. An error means that it could not
// be played; broken invariants are in the report.
func Run(ctx context.Context, config Config) (report Report, err error) {
	d := &demo{Config: config, children: make(map[string]*child)}
	defer func() { err = errors.Join(err, d.stop(context.WithoutCancel(ctx))) }()
	if err := d.start(ctx); err != nil {
		return report, err
	}
	return d.play(ctx)
}

type demo struct {
	Config
	servers  *wire.Servers
	children map[string]*child
	remove   string // temporary data folder
}

func (d *demo) start(ctx context.Context) error {
	if d.DataDir == "" {
		dir, err := os.MkdirTemp("", "countermand-demo-")
		if err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
		d.DataDir, d.remove = dir, dir
	}
	logs := filepath.Join(d.DataDir, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	begin := time.Now()
	var err error
	d.servers, err = wire.StartServers(ctx, wire.ServersConfig{
		DataDir: d.DataDir, Broker: d.Broker, Listen: true, Logger: d.Logger, Progress: func(text string) { d.Say("%s", text) },
	})
	if err != nil {
		return err
	}
	up := "PostgreSQL and JetStream are up, fsync on"
	if d.servers.NATS == nil {
		up = "PostgreSQL is up, fsync on; the broker is Kafka"
	}
	d.Say("✓ %s  %s", up, took(begin))
	begin = time.Now()
	upstreams := []string{}
	for _, role := range wire.Roles() {
		c := &child{role: role, logs: logs, env: slices.Concat([]string{
			"DATABASE_URL=" + d.servers.Databases[role], "COUNTERMAND_GATEWAY_DATABASE_URL=" + d.servers.Databases[wire.GatewayStore],
			"COUNTERMAND_AI_DATABASE_URL=" + d.servers.Databases[wire.AI],
			"COUNTERMAND_SECRET=" + d.servers.Secrets.Operations, "COUNTERMAND_DRAIN_DELAY=none",
		}, d.servers.BrokerEnvironment(), upstreams)}
		d.children[role] = c
		if err := c.start(ctx); err != nil {
			return err
		}
		if variable := wire.UpstreamVariable(role); variable != "" {
			upstreams = append(upstreams, variable+"="+c.ready.HTTP)
		}
	}
	d.Say("✓ engine, order, payment, inventory, ai and gateway run as six processes  %s", took(begin))
	d.Say("  gateway %s   logs %s", d.children[wire.Gateway].ready.HTTP, logs)
	return nil
}

// play places the orders, kills processes in the middle and audits the end.
func (d *demo) play(ctx context.Context) (Report, error) {
	a := audit{d.servers.Databases}
	before, err := a.shelf(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := d.allow(ctx); err != nil {
		return Report{}, err
	}
	all := orders(d.Orders, d.Seed)
	c := newClient(d.children[wire.Gateway].ready.HTTP, 4*d.Clients)
	told, unshown := c.showUndone(ctx, d.Seed, d.Say)
	if ctx.Err() != nil {
		return Report{}, ctx.Err()
	}
	d.Say("\nplacing %d orders: some are declined, some repeated, some returned, some out of stock,\n  some with a note that a model reads (seed %d)", d.Orders, d.Seed)

	var (
		results = make([]result, len(all))
		ended   atomic.Int64
		next    = make(chan int)
		wait    sync.WaitGroup
		begin   = time.Now()
		chaos   = make(chan error, 1) // the one chaos goroutine never waits
		killed  []string
	)
	for range d.Clients {
		wait.Go(func() {
			for i := range next {
				results[i] = c.place(ctx, all[i])
				ended.Add(1)
			}
		})
	}
	go func() { chaos <- d.chaos(ctx, &ended, &killed) }()
	progress := time.NewTicker(time.Second)
	defer progress.Stop()
	pace := time.Duration(0)
	if d.Rate > 0 {
		pace = time.Second / time.Duration(d.Rate)
	}
	for i := range all {
		for sent := false; !sent; {
			select {
			case next <- i:
				sent = true
			case <-progress.C:
				d.Say("  %4d of %d ended  %s", ended.Load(), len(all), took(begin))
			case <-ctx.Done():
				sent = true
			}
		}
		if ctx.Err() != nil {
			break
		}
		time.Sleep(time.Until(begin.Add(time.Duration(i+1) * pace)))
	}
	close(next)
	wait.Wait()
	if err := errors.Join(ctx.Err(), <-chaos); err != nil {
		return Report{}, err
	}
	elapsed := time.Since(begin)
	report := summarise(results, elapsed)
	report.Killed, report.ProgressEvents = killed, told
	if unshown != nil {
		report.Invariants.Terminal = false
		report.Problems = append(report.Problems, "terminal: "+unshown.Error())
	}
	d.Say("\nauditing the databases of the services")
	if err := a.calls(ctx, &report); err != nil {
		return report, err
	}
	stockOK, moneyOK, duplicates, problems, err := a.check(ctx, before, len(all)+1) // and the one that was followed
	if err != nil {
		return report, err
	}
	report.Invariants.Stock, report.Invariants.Money = stockOK, moneyOK
	report.Duplicates += duplicates
	report.Problems = append(report.Problems, problems...)
	return report, nil
}

// chaos kills a participant after a third of the orders, what calls models after a half
// and the engine after two thirds, without warning, and starts them again.
func (d *demo) chaos(ctx context.Context, ended *atomic.Int64, killed *[]string) error {
	for _, act := range []struct {
		role  string
		after int64
		down  time.Duration
	}{
		{wire.Inventory, int64(d.Orders / 3), time.Second},
		{wire.AI, int64(d.Orders / 2), 300 * time.Millisecond},
		{wire.Engine, int64(2 * d.Orders / 3), 200 * time.Millisecond},
	} {
		for ended.Load() < act.after {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				return nil
			}
		}
		c := d.children[act.role]
		c.kill()
		*killed = append(*killed, act.role)
		d.Say("✗ kill -9 %s, with orders in flight", act.role)
		select {
		case <-time.After(act.down):
		case <-ctx.Done():
			return nil
		}
		begin := time.Now()
		if err := c.start(ctx); err != nil {
			return err
		}
		d.Say("✓ %s is back  %s", act.role, took(begin))
	}
	return nil
}

func summarise(results []result, elapsed time.Duration) Report {
	r := Report{Orders: len(results), OrdersPerSecond: float64(len(results)) / elapsed.Seconds()}
	r.Invariants.Terminal = true
	var latencies []time.Duration
	for _, result := range results {
		switch result.status {
		case "completed":
			r.Completed++
		case "compensated":
			r.Compensated++
		case "stuck":
			r.Stuck++
		}
		if result.problem != nil {
			r.Invariants.Terminal = false
			if len(r.Problems) < 20 {
				r.Problems = append(r.Problems, "terminal: "+result.problem.Error())
			}
			continue
		}
		switch result.triage {
		case "":
		case "harmless":
			r.AI.Triaged++
		default: // so that a person was asked, who is not fast
			if strings.HasPrefix(result.triage, "unread") {
				r.AI.Unread++
			} else {
				r.AI.Triaged++
			}
			continue
		}
		latencies = append(latencies, result.took)
	}
	r.LatencyMS = percentiles(latencies)
	return r
}

// stop ends the roles, the gateway first, and then the servers.
func (d *demo) stop(ctx context.Context) error {
	var errs []error
	for _, role := range slices.Backward(wire.Roles()) {
		if c := d.children[role]; c != nil {
			errs = append(errs, c.stop())
		}
	}
	if d.servers != nil {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		errs = append(errs, d.servers.Stop(ctx))
	}
	if d.remove != "" && errors.Join(errs...) == nil {
		errs = append(errs, os.RemoveAll(d.remove))
	}
	return errors.Join(errs...)
}

func took(begin time.Time) string { return time.Since(begin).Round(time.Millisecond).String() }

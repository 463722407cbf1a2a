package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countermand/countermand/platform/embedded"
)

// aiPortkey names a folder in which aiPortkeyInstall was run; that gateway takes part
// then.
const aiPortkey = "COUNTERMAND_BENCH_PORTKEY"

const (
	// With newer versions of @hono/node-server than it was made for, Portkey's gateway
	// answers 500 to streams: it changes headers that are immutable then, as its issues
	// 1389 and 1550 tell.
	aiPortkeyInstall = "npm install @portkey-ai/gateway@1.15.2 @hono/node-server@1.13.8"

	aiClients   = 16
	aiRounds    = 3
	aiPath      = "/ai/v1/chat/completions"
	aiPlainPath = "/v1/chat/completions"
	aiFields    = `"model":"m","max_tokens":50,"messages":[{"role":"system","content":"You are brief."},{"role":"user","content":"Say something about the weather in Zürich."}]}`
	aiJSON      = `{` + aiFields
	aiStream    = `{"stream":true,` + aiFields
)

// aiTarget is one way from the clients to the upstream.
type aiTarget struct {
	name   string
	pid    int // whose CPU is measured; 0: nobody's
	url    string
	header http.Header
	// jsonOnly leaves streams out: this target has failed at them.
	jsonOnly bool
	close    func()
}

// aiBench measures the AI route with budgets on, in front of an upstream that answers
// at once, beside no gateway at all, a plain proxy and, where it is at hand, Portkey's
// gateway. All take turns, several times.
func aiBench(ctx context.Context, options options) (report Report, err error) {
	report = Report{Load: map[string]any{"clients": aiClients, "duration_s": options.duration.Seconds(), "rounds": aiRounds}, Machine: machine()}
	dir, err := os.MkdirTemp("", "countermand-bench-")
	if err != nil {
		return report, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	options.say("Bifrost's HTTP server TAKES NO PART: no registry has it, its npm package only downloads a binary of its vendor")
	options.say("starting PostgreSQL, the upstream, a proxy and the gateway")
	database, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{DataDir: filepath.Join(dir, "postgres")})
	if err != nil {
		return report, err
	}
	defer func() { _ = database.Stop(context.WithoutCancel(ctx)) }()
	targets, err := aiTargets(ctx, database.AdminURL(), options)
	defer func() {
		for _, t := range targets {
			t.close()
		}
	}()
	if err != nil {
		return report, err
	}
	found := make(map[string][]float64) // by target and figure
	each := options.duration / aiRounds
	for round := range aiRounds {
		options.say("round %d of %d", round+1, aiRounds)
		for _, t := range targets {
			for _, phase := range []struct {
				name, body string
				clients    int
			}{{"json_c1", aiJSON, 1}, {"json", aiJSON, aiClients}, {"stream", aiStream, aiClients / 2}} {
				if phase.body == aiStream && t.jsonOnly {
					continue
				}
				m, err := t.load(ctx, phase.body, phase.clients, each)
				if err != nil {
					return report, fmt.Errorf("%s, %s: %w", t.name, phase.name, err)
				}
				for figure, value := range m {
					key := t.name + " " + phase.name + " " + figure
					found[key] = append(found[key], value)
				}
			}
		}
	}
	median := func(target, phase, figure string) float64 {
		values := found[target+" "+phase+" "+figure]
		slices.Sort(values)
		if len(values) == 0 {
			return 0
		}
		return values[len(values)/2]
	}
	for _, t := range targets {
		run := Run{Name: t.name, Load: map[string]any{}}
		run.add("json_p50_c1_us", median(t.name, "json_c1", "p50_us"), "µs")
		run.add("json_per_second", median(t.name, "json", "per_second"), "1/s")
		run.add("json_cpu_us", median(t.name, "json", "cpu_us"), "µs")
		if !t.jsonOnly {
			run.add("stream_per_second", median(t.name, "stream", "per_second"), "1/s")
			run.add("stream_cpu_us", median(t.name, "stream", "cpu_us"), "µs")
		}
		report.Runs = append(report.Runs, run)
	}
	report.add("json_cpu_us", median("gateway", "json", "cpu_us"), "µs")
	report.add("json_added_p50_c1_us", median("gateway", "json_c1", "p50_us")-median("direct", "json_c1", "p50_us"), "µs")
	report.add("json_per_second", median("gateway", "json", "per_second"), "1/s")
	report.add("stream_cpu_us", median("gateway", "stream", "cpu_us"), "µs")
	report.add("stream_cpu_to_proxy", median("gateway", "stream", "cpu_us")/median("proxy", "stream", "cpu_us"), "ratio")
	if portkey := median("portkey", "json", "per_second"); portkey > 0 {
		report.add("json_per_second_to_portkey", median("gateway", "json", "per_second")/portkey, "ratio")
		report.add("json_cpu_to_portkey", median("gateway", "json", "cpu_us")/median("portkey", "json", "cpu_us"), "ratio")
	}
	if portkey := median("portkey", "stream", "per_second"); portkey > 0 {
		report.add("stream_per_second_to_portkey", median("gateway", "stream", "per_second")/portkey, "ratio")
	}
	report.Versions, err = selfVersions("")
	return report, err
}

func aiTargets(ctx context.Context, database string, options options) (targets []*aiTarget, err error) {
	upstream, err := startPart(ctx, "upstream")
	if err != nil {
		return nil, err
	}
	targets = append(targets, &aiTarget{name: "direct", url: upstream.url + aiPlainPath, close: upstream.close})
	for _, role := range []string{"proxy", "gateway"} {
		p, err := startPart(ctx, role, aiUpstream+"="+upstream.url, aiDatabase+"="+database)
		if err != nil {
			return targets, err
		}
		path := aiPlainPath
		if role == "gateway" {
			path = aiPath
		}
		targets = append(targets, &aiTarget{name: role, pid: p.pid, url: p.url + path, close: p.close})
	}
	folder := os.Getenv(aiPortkey)
	if folder == "" {
		options.say("Portkey's gateway TAKES NO PART: %s names no folder in which %q was run", aiPortkey, aiPortkeyInstall)
		return targets, nil
	}
	t, err := startPortkey(ctx, folder, upstream.url)
	if err != nil {
		return targets, fmt.Errorf("portkey: %w", err)
	}
	if t.jsonOnly {
		options.say("Portkey's gateway takes NO PART IN STREAMS, since it does not answer them: run %q in %s", aiPortkeyInstall, folder)
	}
	return append(targets, t), nil
}

func startPortkey(ctx context.Context, folder, upstream string) (*aiTarget, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is asked for once, and at once
	if err != nil {
		return nil, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	_ = listener.Close()
	command := exec.CommandContext(ctx, "node", filepath.Join(folder, "node_modules/@portkey-ai/gateway/build/start-server.js"),
		"--port="+strconv.Itoa(port), "--headless")
	command.Env = append(os.Environ(), "NODE_ENV=production", "TRUSTED_CUSTOM_HOSTS=127.0.0.1,localhost")
	if err := command.Start(); err != nil {
		return nil, err
	}
	t := &aiTarget{
		name: "portkey", pid: command.Process.Pid, url: fmt.Sprintf("http://127.0.0.1:%d%s", port, aiPlainPath),
		header: http.Header{"X-Portkey-Provider": {"openai"}, "X-Portkey-Custom-Host": {upstream + "/v1"}, "Authorization": {"Bearer key"}},
		close: func() {
			_ = command.Process.Kill()
			_ = command.Wait() // it was killed
		},
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err = t.once(ctx, http.DefaultClient, aiJSON); err == nil {
			t.jsonOnly = t.once(ctx, http.DefaultClient, aiStream) != nil
			return t, nil
		}
		if time.Now().After(deadline) {
			t.close()
			return nil, err
		}
	}
}

func (t *aiTarget) once(ctx context.Context, client *http.Client, body string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	maps.Copy(r.Header, t.header)
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %d: %s", response.StatusCode, data)
	}
	if strings.HasPrefix(body, `{"stream":true`) && !strings.Contains(string(data), "[DONE]") {
		return errors.New("a stream has no end")
	}
	return nil
}

// load has clients ask one after another for a while, and returns what was found.
func (t *aiTarget) load(ctx context.Context, body string, clients int, d time.Duration) (map[string]float64, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer client.CloseIdleConnections()
	for range clients * 4 { // connections, leases
		if err := t.once(ctx, client, body); err != nil {
			return nil, err
		}
	}
	before, err := cpuOfProcess(t.pid)
	if err != nil {
		return nil, err
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		took   []time.Duration
		failed atomic.Pointer[error]
	)
	began := time.Now()
	for range clients {
		wg.Go(func() {
			var own []time.Duration
			for time.Since(began) < d {
				at := time.Now()
				if err := t.once(ctx, client, body); err != nil {
					failed.Store(&err)
					return
				}
				own = append(own, time.Since(at))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
		})
	}
	wg.Wait()
	all := time.Since(began)
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	after, err := cpuOfProcess(t.pid)
	if err != nil {
		return nil, err
	}
	slices.Sort(took)
	return map[string]float64{
		"per_second": float64(len(took)) / all.Seconds(), "p50_us": float64(took[len(took)/2].Microseconds()),
		"cpu_us": float64((after - before).Microseconds()) / float64(len(took)),
	}, nil
}

// cpuOfProcess returns the CPU that a process has used.
func cpuOfProcess(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("CPU accounting needs /proc: %w", err)
	}
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"
)

// Report is what the comparison found. Figures holds the ratios.
type Report struct {
	Name     string            `json:"name"`
	Load     map[string]any    `json:"load"`
	Figures  map[string]Figure `json:"figures"`
	Order    []string          `json:"-"` // of the figures, as they are best read
	Runs     []Run             `json:"runs"`
	Machine  Machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
}

// Figure is a number with its unit.
type Figure struct {
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// Run is one engine on one variant of the workload. The closed loop gives the
// rate and what a saga costs; the open loop, at half of that rate, the latency of
// an engine that is not full. At the shared rate all engines do the same work.
type Run struct {
	Engine             string  `json:"engine"`
	Version            string  `json:"version,omitempty"`
	CompensatedPercent int     `json:"compensated_percent"`
	InFlight           int     `json:"in_flight"`
	SagasPerSecond     float64 `json:"sagas_per_second"`
	P50                float64 `json:"p50_ms"`
	P99                float64 `json:"p99_ms"`
	OpenP50            float64 `json:"open_p50_ms"`
	OpenP99            float64 `json:"open_p99_ms"`
	SharedP50          float64 `json:"open_200_p50_ms"`
	SharedP99          float64 `json:"open_200_p99_ms"`
	SharedCPU          float64 `json:"open_200_cpu_ms_per_saga"`
	CPU                float64 `json:"cpu_ms_per_saga"`
	Commits            float64 `json:"commits_per_saga"`
	WAL                float64 `json:"wal_bytes_per_saga"`
}

// Machine is where it ran.
type Machine struct {
	CPUs        int    `json:"cpus"`
	Model       string `json:"model"`
	Kernel      string `json:"kernel"`
	LoadAverage string `json:"load_average"`
}

// ratios of our rate to that of each peer, by name. The first of ours commits
// once for each command of a participant, as the peers do.
var (
	ours   = []struct{ engine, suffix string }{{"countermand", ""}, {"countermand-batched", "_batched"}}
	theirs = []struct{ engine, name string }{{"dbos", "vs_dbos"}, {"river", "vs_river"}, {"river-one-tx", "vs_river_one_tx"}}
)

// compare works out the ratios: of sagas that all complete and, with the suffix,
// of those of which one in ten is compensated. Beside each ratio of rates stands
// that of CPU per saga, theirs to ours, which suffers less from what else a
// machine does.
func (r *Report) compare() {
	r.Figures = make(map[string]Figure)
	for _, us := range ours {
		for _, percent := range percents {
			suffix := us.suffix
			if percent > 0 {
				suffix += fmt.Sprintf("_compensated_%d", percent)
			}
			for _, them := range theirs {
				a, ok := r.run(us.engine, percent)
				b, found := r.run(them.engine, percent)
				if ok && found {
					name := them.name + suffix
					r.Figures[name] = Figure{a.SagasPerSecond / b.SagasPerSecond, "1"}
					r.Figures[name+"_cpu"] = Figure{b.CPU / a.CPU, "1"}
					r.Order = append(r.Order, name, name+"_cpu")
				}
			}
		}
	}
}

func (r *Report) run(engine string, percent int) (Run, bool) {
	for _, run := range r.Runs {
		if run.Engine == engine && run.CompensatedPercent == percent {
			return run, true
		}
	}
	return Run{}, false
}

func (r *Report) print(w io.Writer) {
	fmt.Fprintf(w, "%s   %d CPUs, %s, load %s, PostgreSQL %s\n\n", r.Name, r.Machine.CPUs, r.Machine.Model, r.Machine.LoadAverage, r.Versions["postgres"])
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "engine\tcompensated\tin flight\tsagas/s\tp50 ms\tp99 ms\thalf load p50\tp99\tCPU ms/saga\tcommits/saga\tWAL B/saga\t200/s p50\tp99\tCPU ms/saga\t")
	for _, run := range r.Runs {
		fmt.Fprintf(table, "%s %s\t%d %%\t%d\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t%.0f\t%.1f\t%.1f\t%.2f\t\n", run.Engine, run.Version, run.CompensatedPercent, run.InFlight,
			run.SagasPerSecond, run.P50, run.P99, run.OpenP50, run.OpenP99, run.CPU, run.Commits, run.WAL,
			run.SharedP50, run.SharedP99, run.SharedCPU)
	}
	_ = table.Flush() // stdout is closed when this fails
	fmt.Fprintln(w)
	for _, name := range r.Order {
		fmt.Fprintf(w, "  %-40s %6.2f\n", name, r.Figures[name].Value)
	}
}

// moduleVersion returns the version of a module in this binary.
func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == path {
				return module.Version
			}
		}
	}
	return "unknown"
}

func versions(postgres string) map[string]string {
	found := map[string]string{"go": runtime.Version(), "postgres": postgres}
	for _, path := range []string{"github.com/dbos-inc/dbos-transact-golang", "github.com/riverqueue/river", "github.com/jackc/pgx/v5"} {
		found[path] = moduleVersion(path)
	}
	return found
}

func machine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), Model: "unknown", Kernel: firstLine("/proc/sys/kernel/osrelease"), LoadAverage: firstLine("/proc/loadavg")}
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return m
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			m.Model = strings.TrimSpace(value)
			break
		}
	}
	return m
}

func firstLine(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(content), "\n")
	return line
}

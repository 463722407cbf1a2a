package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a benchmark found.
type Report struct {
	Name    string            `json:"name"`
	Load    map[string]any    `json:"load"`
	Figures map[string]Figure `json:"figures"`
	// Order lists the names of the figures as they are best read.
	Order []string `json:"-"`
	// Runs are the measured phases, of a benchmark that has several.
	Runs     []Run             `json:"runs,omitempty"`
	Machine  Machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
}

// Run is one measured phase of a benchmark.
type Run struct {
	Name    string            `json:"name"`
	Load    map[string]any    `json:"load"`
	Figures map[string]Figure `json:"figures"`
	Order   []string          `json:"-"`
}

// Figure is a number with its unit.
type Figure struct {
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// Machine is where a benchmark ran.
type Machine struct {
	CPUs        int    `json:"cpus"`
	Model       string `json:"model"`
	Kernel      string `json:"kernel"`
	LoadAverage string `json:"load_average"`
}

func (r *Report) add(name string, value float64, unit string) {
	if r.Figures == nil {
		r.Figures = make(map[string]Figure)
	}
	r.Figures[name] = Figure{value, unit}
	r.Order = append(r.Order, name)
}

func (r *Run) add(name string, value float64, unit string) {
	if r.Figures == nil {
		r.Figures = make(map[string]Figure)
	}
	r.Figures[name] = Figure{value, unit}
	r.Order = append(r.Order, name)
}

func (r *Report) print(w io.Writer) {
	fmt.Fprintf(w, "%s   %d CPUs, %s, load %s\n", r.Name, r.Machine.CPUs, r.Machine.Model, r.Machine.LoadAverage)
	if len(r.Runs) == 0 {
		for _, name := range r.Order {
			fmt.Fprintf(w, "  %-28s %12.2f %s\n", name, r.Figures[name].Value, r.Figures[name].Unit)
		}
		return
	}
	// One row per phase; its columns are the figures, which all phases share.
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\t%s\t\n", strings.Join(r.Runs[0].Order, "\t"))
	for _, run := range r.Runs {
		fmt.Fprint(table, run.Name, "\t")
		for _, name := range run.Order {
			fmt.Fprintf(table, "%.2f\t", run.Figures[name].Value)
		}
		fmt.Fprintln(table)
	}
	_ = table.Flush()
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

// versions names what was measured, by the build information of the binary.
func versions(binary, postgres string) map[string]string {
	found := map[string]string{"go": runtime.Version(), "postgres": postgres}
	if output, err := exec.Command("go", "version", "-m", binary).Output(); err == nil {
		for line := range strings.Lines(string(output)) {
			fields := strings.Fields(line)
			if len(fields) >= 3 && fields[0] == "dep" && strings.HasPrefix(fields[1], "github.com/nats-io/") {
				found[fields[1]] = fields[2]
			}
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				found["revision"] = setting.Value
			}
		}
	}
	return found
}

// selfVersions names what was measured in this process.
func selfVersions(postgres string) (map[string]string, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("versions: %w", err)
	}
	return versions(binary, postgres), nil
}

// quantile returns the q-quantile of took in milliseconds; took is sorted.
func quantile(took []time.Duration, q float64) float64 {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return float64(took[min(int(q*float64(len(took))), len(took)-1)].Microseconds()) / 1000
}

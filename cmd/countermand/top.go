package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/outbox/operate"
)

func topCommand() *cobra.Command {
	var (
		listeners []string
		output    string
		every     time.Duration
		times     int
	)
	cmd := &cobra.Command{
		Use: "top", Short: "Show how far consumers and outboxes are behind, and how fast they are", Args: cobra.NoArgs,
		Long: `Top reads the metrics of one or several processes and shows, for each consumer
and outbox, what waits, for how long, and how much is done in a second. On a
terminal it is drawn anew until interrupted; elsewhere it is printed once.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := &screen{out: cmd.OutOrStdout()}
			if every < 100*time.Millisecond {
				return failure{wire.ExitUsage, fmt.Errorf("--every %s", every), "use 100ms or more"}
			}
			if times == 0 && !out.terminal() {
				times = 1
			}
			return top(cmd.Context(), &pulses{client: &http.Client{Timeout: every + 5*time.Second}, listeners: listeners}, out, output, every, times)
		},
	}
	cmd.Flags().StringSliceVar(&listeners, "admin", strings.Split(adminURL(), ","),
		"admin listeners of processes (COUNTERMAND_ADMIN_URL), by commas")
	cmd.Flags().DurationVar(&every, "every", time.Second, "how often to look")
	cmd.Flags().IntVar(&times, "count", 0, "how often to print; 0: until interrupted on a terminal, else once")
	outputFlag(cmd, &output)
	return cmd
}

func top(ctx context.Context, from *pulses, out *screen, output string, every time.Duration, times int) error {
	before, err := from.read(ctx)
	if err != nil {
		return err
	}
	for printed := 0; times == 0 || printed < times; printed++ {
		if err := rest(ctx, every); err != nil {
			return err
		}
		now, err := from.read(ctx)
		if err != nil {
			return err
		}
		pulse := now.since(before)
		before = now
		if output != "table" {
			err = printJSON(out.out, pulse, output)
		} else {
			err = out.show(pulse.table())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pulse is how consumers and outboxes are doing.
type pulse struct {
	Consumers []consumerPulse `json:"consumers"`
	Outboxes  []outboxPulse   `json:"outboxes"`
}

type consumerPulse struct {
	Name          string  `json:"name"`
	Lag           float64 `json:"lag"`            // messages
	OldestSeconds float64 `json:"oldest_seconds"` // of those in hand
	PerSecond     float64 `json:"handled_per_second"`
	BatchSize     float64 `json:"batch_size"`
	Failures      float64 `json:"failures_per_second"`
	DeadLetters   float64 `json:"dead_letters"` // since the process began
	ParkedKeys    float64 `json:"parked_keys"`
	Rebuilt       float64 `json:"rebuilt"` // times since the process began
}

type outboxPulse struct {
	Name          string  `json:"name"`
	Waiting       float64 `json:"waiting"`
	OldestSeconds float64 `json:"oldest_seconds"`
	PerSecond     float64 `json:"published_per_second"`
	Failed        float64 `json:"failed_per_second"`
	Dead          float64 `json:"dead"` // rows that are set aside, and those that wait behind them
}

// pulses reads the metrics of processes.
type pulses struct {
	client    *http.Client
	listeners []string
}

// sample is the metrics of all processes at one moment.
type sample struct {
	at       time.Time
	families []map[string]*dto.MetricFamily
	outboxes map[string]operate.Status // by service; processes of one service share it
}

func (p *pulses) read(ctx context.Context) (sample, error) {
	s := sample{at: time.Now(), outboxes: make(map[string]operate.Status)}
	for _, listener := range p.listeners {
		families, err := p.scrape(ctx, strings.TrimSuffix(listener, "/")+"/metrics")
		if err != nil {
			return s, failure{
				wire.ExitFailed, fmt.Errorf("read the metrics of %s: %w", listener, err),
				"name the admin listeners of running processes with --admin, or start one: countermand dev",
			}
		}
		s.families = append(s.families, families)
		var body admin.Outboxes
		api := &adminClient{base: strings.TrimSuffix(listener, "/"), http: p.client}
		if err := api.get(ctx, "/admin/v1/outboxes", &body); err != nil {
			return s, err
		}
		for _, status := range body.Outboxes {
			s.outboxes[status.Service] = status
		}
	}
	return s, nil
}

func (p *pulses) scrape(ctx context.Context, url string) (map[string]*dto.MetricFamily, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return nil, errors.Unwrap(err) // without the URL, which is said already
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", response.Status)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return parser.TextToMetricFamilies(response.Body)
}

// by adds a metric up by the value of a label, and calls each with the sums.
func (s sample) by(metric, label string, value func(m *dto.Metric) float64) map[string]float64 {
	sums := make(map[string]float64)
	for _, families := range s.families {
		for _, m := range families[metric].GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label {
					sums[l.GetValue()] += value(m)
				}
			}
		}
	}
	return sums
}

func number(m *dto.Metric) float64 { return m.GetCounter().GetValue() + m.GetGauge().GetValue() }

// outcome is number for metrics of that outcome, and nothing for others.
func outcome(want string) func(m *dto.Metric) float64 {
	return func(m *dto.Metric) float64 {
		for _, l := range m.GetLabel() {
			if l.GetName() == "outcome" && l.GetValue() != want {
				return 0
			}
		}
		return number(m)
	}
}

// since returns how things are at s, and what was done since before.
func (s sample) since(before sample) pulse {
	seconds := s.at.Sub(before.at).Seconds()
	rate := func(metric, label string, value func(*dto.Metric) float64) map[string]float64 {
		rates, was := s.by(metric, label, value), before.by(metric, label, value)
		for name := range rates {
			rates[name] = max(0, rates[name]-was[name]) / seconds // less than before: another process
		}
		return rates
	}
	const c, o = "consumer", "outbox"
	gauge := func(metric string) map[string]float64 { return s.by(metric, c, number) }
	lag, oldest := gauge("countermand_consumer_lag"), gauge("countermand_consumer_oldest_seconds")
	handled := rate("countermand_consumer_handled_total", c, number)
	failures := rate("countermand_consumer_failures_total", c, number)
	batches := rate("countermand_consumer_batch_size", c, func(m *dto.Metric) float64 { return float64(m.GetHistogram().GetSampleCount()) })
	size := rate("countermand_consumer_batch_size", c, func(m *dto.Metric) float64 { return m.GetHistogram().GetSampleSum() })
	dead, parked := gauge("countermand_consumer_dead_letters_total"), gauge("countermand_consumer_parked_keys")
	rebuilt := gauge("countermand_consumer_rebuilt_total")
	p := pulse{Consumers: []consumerPulse{}, Outboxes: []outboxPulse{}}
	for _, name := range slices.Sorted(maps.Keys(handled)) {
		one := consumerPulse{
			Name: name, Lag: lag[name], OldestSeconds: oldest[name], PerSecond: handled[name], Failures: failures[name],
			DeadLetters: dead[name], ParkedKeys: parked[name], Rebuilt: rebuilt[name],
		}
		if batches[name] > 0 {
			one.BatchSize = size[name] / batches[name]
		}
		p.Consumers = append(p.Consumers, one)
	}
	published := rate("countermand_outbox_published_total", o, outcome("stored"))
	failed := rate("countermand_outbox_published_total", o, outcome("failed"))
	for _, name := range slices.Sorted(maps.Keys(published)) {
		status := s.outboxes[name]
		one := outboxPulse{
			Name: name, Waiting: float64(status.Waiting), PerSecond: published[name], Failed: failed[name],
			Dead: float64(status.Dead + status.Parked),
		}
		if status.Oldest != nil {
			one.OldestSeconds = max(0, s.at.Sub(*status.Oldest).Seconds())
		}
		p.Outboxes = append(p.Outboxes, one)
	}
	slices.SortStableFunc(p.Consumers, func(a, b consumerPulse) int { return cmp.Compare(b.Lag, a.Lag) })
	return p
}

// table shows a pulse to people, what is furthest behind first.
func (p pulse) table() string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(cells ...any) {
		for _, cell := range cells {
			_, _ = fmt.Fprint(table, cell, "\t")
		}
		_, _ = io.WriteString(table, "\n")
	}
	line("CONSUMER", "LAG", "OLDEST", "HANDLED/S", "PER BATCH", "FAILED/S", "DEAD", "PARKED", "REBUILT")
	for _, c := range p.Consumers {
		line(c.Name, c.Lag, span(c.OldestSeconds), tenths(c.PerSecond), tenths(c.BatchSize), tenths(c.Failures), c.DeadLetters, c.ParkedKeys, c.Rebuilt)
	}
	_ = table.Flush()
	text.WriteString("\n")
	line("OUTBOX", "WAITING", "OLDEST", "PUBLISHED/S", "FAILED/S", "DEAD")
	for _, o := range p.Outboxes {
		line(o.Name, o.Waiting, span(o.OldestSeconds), tenths(o.PerSecond), tenths(o.Failed), o.Dead)
	}
	_ = table.Flush()
	return text.String()
}

func tenths(v float64) string { return fmt.Sprintf("%.1f", v) }

func span(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond).String()
}

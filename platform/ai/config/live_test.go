package config_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/countermand/countermand/platform/ai/config"
)

func TestTheFileIsFollowedAndTheLastGoodOneKept(t *testing.T) {
	folder := t.TempDir()
	file, key, token := filepath.Join(folder, "ai.yaml"), filepath.Join(folder, "key"), filepath.Join(folder, "token")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configuration := func(model string) string {
		return `{version: 1, providers: {p: {preset: openai, keys: ["file:` + key + `"]}}, deployments: {d: {provider: p, model: ` + model + `}}, models: {m: d},
			guards: {webhook: {url: "https://guard.example", token: "file:` + token + `"}}}`
	}
	write(key, "one")
	write(token, "one")
	write(file, configuration("a"))
	var log strings.Builder
	registry := prometheus.NewRegistry()
	live, err := config.Load(file, os.LookupEnv, registry, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil || live.Config().Upstream.Deployments["d"].Model != "a" {
		t.Fatal(live, err)
	}
	served := make(chan *config.Config, 8)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = live.Run(ctx, func(c *config.Config) { served <- c }) })
	defer wg.Wait()
	defer cancel()
	next := func() *config.Config {
		t.Helper()
		select {
		case c := <-served:
			return c
		case <-time.After(20 * time.Second):
			t.Fatal("the change was not seen")
			return nil
		}
	}
	write(file, configuration("b"))
	if c := next(); c.Upstream.Deployments["d"].Model != "b" {
		t.Errorf("%+v", c.Upstream)
	}
	write(file, "{version: 1, nonsense: true}")
	stale := func() float64 {
		families, _ := registry.Gather()
		for _, f := range families {
			if f.GetName() == "countermand_ai_config_stale" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	for deadline := time.Now().Add(20 * time.Second); stale() != 1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a wrong configuration is not told")
		}
	}
	if len(served) > 0 {
		t.Error("a wrong configuration is served")
	}
	write(key, "two")
	write(file, configuration("b"))
	if c := next(); c.Upstream.Providers["p"].Keys[0].Secret != "two" || stale() != 0 {
		t.Errorf("the new key is not used, stale is %v", stale())
	}
	write(token, "two")
	if c := next(); c.Guards.Webhook.Token != "two" {
		t.Error("the webhook's new token is not used")
	}
	cancel()
	wg.Wait()
	if n := testutil.CollectAndCount(registry, "countermand_ai_config_loads_total"); n != 2 {
		t.Errorf("%d results were counted, want loaded and refused", n)
	}
	if strings.Contains(log.String(), "two") {
		t.Errorf("a key is in the log: %s", log.String())
	}
}

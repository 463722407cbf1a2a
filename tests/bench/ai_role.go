package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/config"
	"github.com/countermand/countermand/platform/ai/observe"
	"github.com/countermand/countermand/platform/ai/price"
	"github.com/countermand/countermand/platform/ai/route"
	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/outbox"
	"github.com/countermand/countermand/platform/postgres"
)

// aiRole names, in the environment of a process of this program, which part of the
// benchmark ai it is. Each part is a process, so that its CPU can be told apart.
const aiRole = "COUNTERMAND_BENCH_AI"

// The environment of the parts.
const (
	aiUpstream = "COUNTERMAND_BENCH_AI_UPSTREAM"
	aiDatabase = "COUNTERMAND_BENCH_AI_DATABASE"
)

const aiTenant = "bench"

// serveAI serves one part until its input ends, and prints where.
func serveAI(role string) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // as the binaries do
	}
	var (
		handler http.Handler
		err     error
	)
	switch role {
	case "upstream":
		handler = aiMock()
	case "proxy":
		handler, err = aiProxy(os.Getenv(aiUpstream))
	case "gateway":
		handler, err = aiGateway(os.Getenv(aiUpstream), os.Getenv(aiDatabase))
	default:
		err = fmt.Errorf("there is no part %q", role)
	}
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is asked for once, and at once
	if err != nil {
		return err
	}
	server := gateway.NewServer("", handler, slog.New(slog.DiscardHandler))
	fmt.Printf("http://%s\n", listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// aiMock answers at once: a completion, or one in 22 events.
func aiMock() http.Handler {
	const answer = `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"a small answer","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":3,"total_tokens":23}}`
	const chunk = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}]}` + "\n\n"
	events := []string{fmt.Sprintf(chunk, `{"role":"assistant","content":""}`, "null")}
	for range 18 {
		events = append(events, fmt.Sprintf(chunk, `{"content":" word"}`, "null"))
	}
	events = append(events, fmt.Sprintf(chunk, `{}`, `"stop"`),
		`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":20,"completion_tokens":18,"total_tokens":38}}`+"\n\n",
		"data: [DONE]\n\n")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if !strings.Contains(string(body), `"stream":true`) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, answer)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		control := http.NewResponseController(w)
		for _, event := range events {
			_, _ = io.WriteString(w, event)
			_ = control.Flush()
		}
	})
}

// aiProxy passes requests on and does nothing else.
func aiProxy(upstream string) (http.Handler, error) {
	target, err := url.Parse(upstream)
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     &http.Transport{MaxIdleConnsPerHost: 256},
		FlushInterval: -1,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A body that is still being passed on is closed when the answer begins, and its
		// connection to the upstream with it.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}), nil
}

// aiGateway is the AI route with budgets that hold for every call.
func aiGateway(upstream, database string) (http.Handler, error) {
	ctx := context.Background()
	pool, err := postgres.Open(ctx, postgres.Config{URL: database, MaxConns: 8})
	if err != nil {
		return nil, err
	}
	err = postgres.Migrate(ctx, pool,
		postgres.MigrationSet{Owner: "outbox", FS: outbox.Migrations()}, postgres.MigrationSet{Owner: "ai_budget", FS: budget.Migrations()})
	if err != nil {
		return nil, err
	}
	prices, err := price.New(price.Overlay{})
	if err != nil {
		return nil, err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	keeper, err := budget.New(pool, budget.Config{Prices: prices, Logger: logger})
	if err != nil {
		return nil, err
	}
	for _, b := range []budget.Budget{
		{ID: "money", Tenant: aiTenant, Unit: budget.USD, Period: budget.Month, Limit: 1e15},
		{ID: "tokens", Tenant: aiTenant, Unit: budget.Tokens, Period: budget.Minute, Limit: 1e15},
	} {
		if err := keeper.Put(ctx, b); err != nil {
			return nil, err
		}
	}
	go func() { _ = keeper.Run(ctx) }() // until the process ends
	for {
		res, err := keeper.Reserve(ctx, budget.Call{Caller: ai.Caller{Tenant: aiTenant}, Targets: []ai.Model{{Provider: "openai", Name: "gpt-4o-mini"}}})
		if err == nil {
			res.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	c, err := config.Parse("bench", []byte(`{version: 1, providers: {p: {wire: openai, base_url: "`+upstream+`/v1", auth: none, prices: openai}},
		deployments: {d: {provider: p, model: gpt-4o-mini}}, models: {m: d}}`), config.Sources{})
	if err != nil {
		return nil, err
	}
	observer, err := observe.New(nil, nil)
	if err != nil {
		return nil, err
	}
	h := route.New(route.Config{Keeper: keeper, Observer: observer, Logger: logger}, c)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(gateway.WithIdentity(r.Context(), gateway.Identity{Tenant: aiTenant, Client: "app"})))
	}), nil
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/saga"
)

// Exit codes of commands that speak to the admin API.
const (
	exitNotFound = 4 // there is no such saga or definition
	exitConflict = 5 // the saga cannot do what it is told, or has moved since
)

// adminClient calls the admin API.
type adminClient struct {
	base string
	http *http.Client
}

// flag adds --admin, for the admin API of the processes that are told. It is for the
// commands below cmd as well.
func (c *adminClient) flag(cmd *cobra.Command, processes string) {
	c.http = new(http.Client)
	cmd.PersistentFlags().StringVar(&c.base, "admin", adminURL(), "admin API of "+processes+" (COUNTERMAND_ADMIN_URL)")
}

func adminURL() string {
	return fallback(os.Getenv("COUNTERMAND_ADMIN_URL"), "http://"+wire.DefaultAdminAddr)
}

// queryFlag adds a flag that sets the parameter of its name.
func queryFlag(cmd *cobra.Command, query url.Values, name, usage string) {
	cmd.Flags().Func(name, usage, func(value string) error {
		query.Set(name, value)
		return nil
	})
}

// answerTimeout bounds an answer that is not a stream.
const answerTimeout = 40 * time.Second

func (c *adminClient) saga(ctx context.Context, id string) (admin.Saga, error) {
	var in admin.Saga
	err := c.get(ctx, "/admin/v1/sagas/"+url.PathEscape(id), &in)
	return in, err
}

// graph returns the shape of a definition; nil when no engine has told it.
func (c *adminClient) graph(ctx context.Context, name string, version int) (*saga.Graph, error) {
	g := new(saga.Graph)
	err := c.get(ctx, fmt.Sprintf("/admin/v1/definitions/%s?version=%d", url.PathEscape(name), version), g)
	if f, ok := errors.AsType[failure](err); ok && f.code == exitNotFound {
		return nil, nil
	}
	return g, err
}

func (c *adminClient) get(ctx context.Context, path string, into any) error {
	return c.call(ctx, http.MethodGet, path, "", nil, into)
}

// call makes a request with a body, unless that is nil, and decodes the answer,
// unless into is nil. condition is a header such as "If-Match: *", or empty.
func (c *adminClient) call(ctx context.Context, method, path, condition string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	response, err := c.do(ctx, method, path, condition, body)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("answer of the admin API: %w", err)
	}
	return nil
}

// lines makes a request and takes each line of the answer as it comes.
func (c *adminClient) lines(ctx context.Context, path string, body any, each func(line []byte) error) error {
	response, err := c.do(ctx, http.MethodPost, path, "", body)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	scanner := bufio.NewScanner(response.Body)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		if err := each(scanner.Bytes()); err != nil {
			return err
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("answer of the admin API: %w", err)
	}
	return nil
}

// do returns an answer that is none of an error.
func (c *adminClient) do(ctx context.Context, method, path, condition string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.base, "/")+path, content)
	if err != nil {
		return nil, failure{wire.ExitUsage, err, "--admin wants a URL such as http://127.0.0.1:8081"}
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if name, value, ok := strings.Cut(condition, ": "); ok {
		request.Header.Set(name, value)
	}
	response, err := c.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, failure{
			wire.ExitUnreachable, fmt.Errorf("no admin API at %s: %w", c.base, errors.Unwrap(err)),
			"start one with: countermand dev, or name it with --admin URL",
		}
	}
	if response.StatusCode >= 300 {
		defer func() { _ = response.Body.Close() }()
		return nil, problemOf(response)
	}
	return response, nil
}

// problemOf returns what an answer that is an error says.
func problemOf(response *http.Response) error {
	var problem admin.Problem
	err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&problem)
	if err != nil || problem.Code == "" {
		return failure{wire.ExitFailed, fmt.Errorf("the admin API answered %s", response.Status), "is --admin the admin listener of a process that runs this?"}
	}
	f := failure{code: wire.ExitFailed, err: fmt.Errorf("%s: %s", problem.Code, problem.Detail)}
	switch response.StatusCode {
	case http.StatusNotFound:
		f.code = exitNotFound
	case http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired:
		f.code = exitConflict
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		f.code = wire.ExitUsage
	}
	switch problem.Code {
	case "revision_moved":
		f.fix = "look at it again with: countermand saga get ID, or dlq show ID"
	case "count_differs":
		f.fix = "look at them again with: countermand saga list or dlq list and the same flags, or replay --dry-run"
	case "consumer_not_found":
		f.fix = "see which consumers there are with: countermand replay"
	case "remembers_nothing":
		f.fix = "have all effects made again with --again"
	case "replayed_too_often":
		f.fix = "replay it all the same with --force"
	case "schedule_exists":
		f.fix = "replace it with --replace"
	case "saga_running":
		f.fix = "start another one with --force"
	case "redriven_too_often":
		f.fix = "redrive it all the same with --force"
	case "past_pivot":
		f.fix = "it only goes forward; see: countermand saga retry, skip, complete and abandon --help"
	}
	return f
}

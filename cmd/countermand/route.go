package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/gateway"
	"github.com/countermand/countermand/platform/gateway/reload"
)

func routeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "route",
		Short: "Look at route tables and check them before a gateway gets them",
	}
	cmd.AddCommand(routeListCommand(), routeLintCommand(), routeTestCommand())
	return cmd
}

// routeTable reads a route table as a gateway would; an empty file is the shop's. An
// upstream whose variable is not set here would be a fault there only.
func routeTable(file string) (*gateway.Table, error) {
	name, text, err := wire.ReadRoutes(file)
	if err != nil {
		return nil, err
	}
	return wire.ParseRoutes(name, text, os.LookupEnv)
}

func routeListCommand() *cobra.Command {
	var (
		adminURL string
		asJSON   bool
	)
	cmd := &cobra.Command{
		Use:   "list [FILE]",
		Short: "List the routes of a table (the shop's by default) or, with --admin, of a running gateway",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var routes []gateway.RouteInfo
			if adminURL != "" {
				if len(args) > 0 {
					return failure{wire.ExitUsage, errors.New("both a file and --admin are given"), "leave one of them out"}
				}
				var answer reload.Routes
				client := &adminClient{base: adminURL, http: http.DefaultClient}
				if err := client.get(cmd.Context(), "/admin/v1/routes", &answer); err != nil {
					return err
				}
				routes = answer.Routes
				if f := answer.Status.Failure; f != nil {
					fmt.Fprintf(os.Stderr, "the last attempt to replace this table failed at %s:\n  %s\n",
						f.At.Format("2006-01-02 15:04:05Z07:00"), strings.Join(f.Errors, "\n  "))
				}
			} else {
				table, err := routeTable(strings.Join(args, ""))
				if err != nil {
					return err
				}
				routes = table.Routes()
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(routes)
			}
			w := columns(cmd.OutOrStdout())
			fmt.Fprintln(w, "ROUTE\tKIND\tMETHOD\tPATH\tLEADS TO\tAUTH\tGUARDS")
			for _, rt := range routes {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", rt.ID, rt.Kind, rt.Method, rt.Path, rt.Leads, strings.TrimSpace(rt.Auth+" "+strings.Join(rt.Scopes, " ")), strings.Join(rt.Guards, "; "))
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVar(&adminURL, "admin", "", "admin listener of a running gateway")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func routeLintCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "lint FILE...",
		Short: "Name every fault of route tables, with file and line",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var faulty int
			for _, file := range args {
				if _, err := routeTable(file); err != nil {
					faulty++
					fmt.Fprintln(cmd.OutOrStdout(), err)
				}
			}
			if faulty > 0 {
				return fmt.Errorf("%d of %d route tables cannot be served", faulty, len(args))
			}
			return nil
		},
	}
}

func routeTestCommand() *cobra.Command {
	var (
		file, data string
		headers    []string
		identity   gateway.Identity
		asJSON     bool
	)
	cmd := &cobra.Command{
		Use:   "test METHOD PATH",
		Short: "Tell which route takes a request, and what its schema and guards say",
		Long: `Test tells which route of a table takes a request, and what its schema and guards
say of it. It sends nothing. The exit code is 0 when nothing that the table knows is
against the request, and 1 otherwise.`,
		Example: `  countermand route test GET /v1/orders/42
  countermand route test POST /v1/orders --file routes.yaml --data @order.json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			table, err := routeTable(file)
			if err != nil {
				return err
			}
			body, err := requestData(data, cmd.InOrStdin())
			if err != nil {
				return err
			}
			target, err := url.ParseRequestURI(args[1])
			if err != nil || target.IsAbs() {
				return failure{wire.ExitUsage, fmt.Errorf("%q is no path", args[1]), "give a path such as /v1/orders/42?x=1"}
			}
			r := httptest.NewRequestWithContext(gateway.WithIdentity(cmd.Context(), identity), strings.ToUpper(args[0]), args[1], bytes.NewReader(body))
			for _, header := range headers {
				name, value, ok := strings.Cut(header, ":")
				if !ok {
					return failure{wire.ExitUsage, fmt.Errorf("%q is no header", header), `write it as "Name: value"`}
				}
				r.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
			}
			explanation := table.Explain(r, body)
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(explanation)
			} else {
				err = explainRoute(cmd.OutOrStdout(), explanation)
			}
			if err == nil && explanation.Problem != nil {
				err = failure{code: wire.ExitFailed, err: fmt.Errorf("%d %s", explanation.Problem.Status, explanation.Problem.Code)}
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "file", os.Getenv("COUNTERMAND_ROUTES"), "route table (default: the shop's)")
	flags.StringVarP(&data, "data", "d", "", "body of the request; @FILE reads it from a file, @- from stdin")
	flags.StringArrayVarP(&headers, "header", "H", nil, `header of the request, as "Name: value"`)
	flags.StringVar(&identity.Tenant, "tenant", "", "tenant of the sender")
	flags.StringVar(&identity.Client, "client", "", "client of the sender")
	flags.StringSliceVar(&identity.Scopes, "scope", nil, "scopes of the sender")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// requestData returns what --data means.
func requestData(data string, stdin io.Reader) ([]byte, error) {
	file, ok := strings.CutPrefix(data, "@")
	switch {
	case !ok:
		return []byte(data), nil
	case file == "-":
		return io.ReadAll(stdin)
	}
	return os.ReadFile(file)
}

func explainRoute(w io.Writer, e gateway.Explanation) error {
	var b strings.Builder
	if e.Route == nil {
		b.WriteString("no route takes it\n")
	} else {
		fmt.Fprintf(&b, "route   %s (%s)\nmatch   %s %s\n", e.Route.ID, e.Route.Kind, e.Route.Method, e.Route.Path)
		if e.Route.Leads != "" {
			fmt.Fprintf(&b, "leads   to %s\n", e.Route.Leads)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Params)) {
		fmt.Fprintf(&b, "param   %s = %s\n", name, e.Params[name])
	}
	for _, g := range e.Guards {
		verdict := "allows "
		if !g.Allowed {
			verdict = "refuses"
		}
		fmt.Fprintf(&b, "guard   %s  %s\n", verdict, g.Allow)
		if g.Error != "" {
			fmt.Fprintf(&b, "        it cannot be told: %s\n", g.Error)
		}
	}
	if p := e.Problem; p != nil {
		fmt.Fprintf(&b, "refused %d %s: %s\n", p.Status, p.Code, p.Detail)
		for _, v := range p.Errors {
			fmt.Fprintf(&b, "        %s %s\n", v.Pointer, v.Detail)
		}
	} else {
		b.WriteString("passes\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

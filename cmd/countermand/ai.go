package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/ai/budget"
	"github.com/countermand/countermand/platform/ai/operate"
)

func aiCommand() *cobra.Command {
	client := new(adminClient)
	cmd := &cobra.Command{
		Use:   "ai",
		Short: "Look after AI calls: budgets, usage, prices and prompts",
		Long: `These commands speak to the admin listener of a process that runs the role ai,
such as "countermand dev".`,
	}
	client.flag(cmd, "a dev process or of one that runs the role ai")
	cmd.AddCommand(aiBudgetCommand(client), aiUsageCommand(client), aiUncertainCommand(client), aiPriceCommand(client), aiPromptCommand(client))
	return cmd
}

const aiPath = "/admin/v1/ai/"

func aiBudgetCommand(client *adminClient) *cobra.Command {
	cmd := &cobra.Command{Use: "budget", Short: "What callers may spend in an hour, a day or a month"}
	cmd.AddCommand(aiBudgetListCommand(client), aiBudgetSetCommand(client), &cobra.Command{
		Use: "delete ID", Short: "Delete a budget", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.call(cmd.Context(), http.MethodDelete, aiPath+"budgets/"+url.PathEscape(args[0]), "", nil, nil)
		},
	})
	return cmd
}

func aiBudgetListCommand(client *adminClient) *cobra.Command {
	var output string
	query := map[string]*string{"tenant": new(string), "app": new(string), "key": new(string)}
	cmd := &cobra.Command{
		Use: "list", Short: "Show how budgets stand", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []budget.PeriodStatus
			for after := ""; ; {
				values := url.Values{"limit": {"1000"}, "after": {after}}
				for name, value := range query {
					values.Set(name, *value)
				}
				var list operate.BudgetList
				if err := client.get(cmd.Context(), aiPath+"budgets?"+values.Encode(), &list); err != nil {
					return err
				}
				all = append(all, list.Budgets...)
				if after = list.Next; after == "" {
					break
				}
			}
			return printBudgets(cmd, all, output)
		},
	}
	for name, value := range query {
		cmd.Flags().StringVar(value, name, "", "of this "+name+" only")
	}
	outputFlag(cmd, &output)
	return cmd
}

func printBudgets(cmd *cobra.Command, all []budget.PeriodStatus, output string) error {
	if output != "table" {
		return printAll(cmd.OutOrStdout(), all, output)
	}
	w := columns(cmd.OutOrStdout())
	fmt.Fprintln(w, "ID\tFOR\tPER\tLIMIT\tSPENT\tRESERVED\tLEFT\tRESETS")
	for _, s := range all {
		b := s.Budget
		scope := cmp.Or(b.Tenant, "everybody")
		if b.App != "" {
			scope += " app " + b.App
		}
		if b.Key != "" {
			scope += " key " + b.Key
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", b.ID, scope, b.Period,
			amount(b.Unit, b.Limit), amount(b.Unit, s.Spent), amount(b.Unit, s.Reserved), amount(b.Unit, s.Left), s.EndsAt.Format(time.RFC3339))
	}
	return w.Flush()
}

// amount writes so much of a unit for people.
func amount(unit budget.Unit, n int64) string {
	if unit == budget.USD {
		return "$" + ai.NanoUSD(n).String()
	}
	return strconv.FormatInt(n, 10) + " " + string(unit)
}

func aiBudgetSetCommand(client *adminClient) *cobra.Command {
	var (
		b                budgetFlags
		tokens, requests int64
		usd, output      string
		warn             []int
	)
	cmd := &cobra.Command{
		Use: "set ID", Short: "Make a budget, or change it", Args: cobra.ExactArgs(1),
		Example: `  countermand ai budget set team-a --tenant acme --usd 50 --per month
  countermand ai budget set bot-rpm --tenant acme --key bot --requests 60 --per minute`,
		RunE: func(cmd *cobra.Command, args []string) error {
			stated := budget.Budget{
				ID: args[0], Tenant: b.tenant, App: b.app, Key: b.key, Period: budget.Period(b.per), OnUncertain: budget.OnUncertain(b.uncertain),
			}
			for _, percent := range warn {
				stated.WarnAt = append(stated.WarnAt, int16(min(max(percent, 0), 101))) // which the API refuses
			}
			given := 0
			for name, set := range map[string]func() error{
				"usd": func() error {
					limit, err := ai.ParseUSD(usd)
					stated.Unit, stated.Limit = budget.USD, int64(limit)
					return err
				},
				"tokens":   func() error { stated.Unit, stated.Limit = budget.Tokens, tokens; return nil },
				"requests": func() error { stated.Unit, stated.Limit = budget.Requests, requests; return nil },
			} {
				if cmd.Flags().Changed(name) {
					given++
					if err := set(); err != nil {
						return failure{wire.ExitUsage, fmt.Errorf("--%s: %w", name, err), ""}
					}
				}
			}
			if given != 1 {
				return failure{wire.ExitUsage, errors.New("a budget has one limit"), "add one of --usd, --tokens and --requests"}
			}
			var status budget.PeriodStatus
			if err := client.call(cmd.Context(), http.MethodPut, aiPath+"budgets/"+url.PathEscape(args[0]), "", stated, &status); err != nil {
				return err
			}
			return printBudgets(cmd, []budget.PeriodStatus{status}, output)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&b.tenant, "tenant", "", "whose it is (default: everybody's)")
	flags.StringVar(&b.app, "app", "", "for this app of the tenant only")
	flags.StringVar(&b.key, "key", "", "for the key with this id only")
	flags.StringVar(&usd, "usd", "", "limit in US dollars, such as 25 or 0.50")
	flags.Int64Var(&tokens, "tokens", 0, "limit in tokens")
	flags.Int64Var(&requests, "requests", 0, "limit in calls")
	flags.StringVar(&b.per, "per", "month", "minute, hour, day or month, in UTC")
	flags.StringVar(&b.uncertain, "on-uncertain", "hold", "hold, charge or release what nobody knows the cost of")
	flags.IntSliceVar(&warn, "warn-at", nil, "percentages at which an event tells (default: 80)")
	complete(cmd, "per", "minute", "hour", "day", "month")
	complete(cmd, "on-uncertain", "hold", "charge", "release")
	outputFlag(cmd, &output)
	return cmd
}

// budgetFlags are the flags of a budget.
type budgetFlags struct{ tenant, app, key, per, uncertain string }

func aiUsageCommand(client *adminClient) *cobra.Command {
	var from, to, by, tenant, app, key, output string
	cmd := &cobra.Command{
		Use: "usage", Short: "Show what was used and what it cost", Args: cobra.NoArgs,
		Example: `  countermand ai usage --by tenant,model --from 2026-11-01T00:00:00Z`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values := url.Values{"from": {from}, "to": {to}, "by": {by}, "tenant": {tenant}, "app": {app}, "key": {key}, "limit": {"1000"}}
			var list operate.UsageList
			if err := client.get(cmd.Context(), aiPath+"usage?"+values.Encode(), &list); err != nil {
				return err
			}
			if output != "table" {
				return printAll(cmd.OutOrStdout(), list.Usage, output)
			}
			w := columns(cmd.OutOrStdout())
			fmt.Fprintln(w, "AT\tWHO\tMODEL\tCALLS\tRELEASED\tUNCERTAIN\tINPUT\tOUTPUT\tCOST")
			for _, u := range list.Usage {
				at := ""
				if u.At != nil {
					at = u.At.UTC().Format(time.RFC3339)
				}
				cost := "$" + u.Cost.String()
				if u.Unpriced > 0 {
					cost += fmt.Sprintf(" and %d without a price", u.Unpriced)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\n", at, joined(u.Tenant, u.App, u.Key), joined(u.Operation, u.Provider, u.Model),
					u.Settled, u.Released, u.Uncertain, u.Usage.InputTotal(), u.Usage.OutputTotal(), cost)
			}
			return w.Flush()
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "begin, a whole hour such as 2026-11-01T00:00:00Z (default: a day ago)")
	flags.StringVar(&to, "to", "", "end, not included (default: now)")
	flags.StringVar(&by, "by", "", "sums for any of hour, day, tenant, app, key, provider, model, operation (default: tenant,model)")
	flags.StringVar(&tenant, "tenant", "", "of this tenant only")
	flags.StringVar(&app, "app", "", "of this app only")
	flags.StringVar(&key, "key", "", "of the key with this id only")
	outputFlag(cmd, &output)
	return cmd
}

// joined puts what there is with slashes between.
func joined(parts ...string) string {
	kept := parts[:0:0]
	for _, part := range parts {
		if part != "" {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "/")
}

func aiUncertainCommand(client *adminClient) *cobra.Command {
	var output string
	list := &cobra.Command{
		Use: "list", Short: "Show attempts of which nobody knows what they cost", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var found operate.UncertainList
			if err := client.get(cmd.Context(), aiPath+"uncertain?limit=1000", &found); err != nil {
				return err
			}
			if output != "table" {
				return printAll(cmd.OutOrStdout(), found.Uncertain, output)
			}
			w := columns(cmd.OutOrStdout())
			fmt.Fprintln(w, "CALL\tATTEMPT\tWHO\tMODEL\tHELD\tSINCE\tREASON")
			for _, o := range found.Uncertain {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t$%s\t%s\t%s\n", o.CallID, o.Attempt, joined(o.Caller.Tenant, o.Caller.App, o.Caller.Key),
					joined(o.Operation, o.Model.Provider, o.Model.Name), o.Most, o.Since.Format(time.RFC3339), o.Reason)
			}
			return w.Flush()
		},
	}
	outputFlag(list, &output)
	var resolution operate.Resolution
	resolve := &cobra.Command{
		Use: "resolve CALL ATTEMPT", Short: "Say what an uncertain attempt has cost", Args: cobra.ExactArgs(2),
		Example: `  countermand ai uncertain resolve 0190a5b2-… 1 --usd 0.012 --note "the provider's usage page"
  countermand ai uncertain resolve 0190a5b2-… 1 --note "the provider has no such request"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.call(cmd.Context(), http.MethodPost, aiPath+"uncertain/"+url.PathEscape(args[0])+"/"+url.PathEscape(args[1]), "", resolution, nil)
		},
	}
	resolve.Flags().StringVar(&resolution.CostUSD, "usd", "", "what it has cost (default: nothing)")
	resolve.Flags().StringVar(&resolution.Note, "note", "", "who found out, and how")
	cmd := &cobra.Command{Use: "uncertain", Short: "Attempts of which nobody knows what they cost"}
	cmd.AddCommand(list, resolve)
	return cmd
}

func aiPriceCommand(client *adminClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "price PROVIDER/MODEL", Short: "Show what a model costs", Args: cobra.ExactArgs(1),
		Example: `  countermand ai price openai/gpt-4o-mini`,
		RunE: func(cmd *cobra.Command, args []string) error {
			provider, model, ok := strings.Cut(args[0], "/")
			if !ok {
				return failure{wire.ExitUsage, fmt.Errorf("model %q", args[0]), "name the provider as well, such as openai/gpt-4o-mini"}
			}
			var p operate.Price
			if err := client.get(cmd.Context(), aiPath+"prices/"+url.PathEscape(provider)+"/"+url.PathEscape(model), &p); err != nil {
				return err
			}
			if output != "table" {
				return printJSON(cmd.OutOrStdout(), p, output)
			}
			w := columns(cmd.OutOrStdout())
			fmt.Fprintf(w, "%s\t%s\n", p.Model, p.Version)
			for _, class := range []struct {
				name string
				rate ai.Rate
			}{{"input", p.Input}, {"cached input", p.CachedInput}, {"cache write", p.CacheWrite}, {"output", p.Output}, {"reasoning", p.Reasoning}} {
				fmt.Fprintf(w, "%s\t$%s for a million tokens\n", class.name, ai.NanoUSD(class.rate))
			}
			if p.Request > 0 {
				fmt.Fprintf(w, "request\t$%s\n", p.Request)
			}
			if p.Tiered {
				fmt.Fprintln(w, "a large input is dearer\t")
			}
			return w.Flush()
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

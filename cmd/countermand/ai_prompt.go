package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/ai/operate"
	"github.com/countermand/countermand/platform/ai/prompt"
)

func aiPromptCommand(client *adminClient) *cobra.Command {
	var tenant string
	cmd := &cobra.Command{Use: "prompt", Short: "Prompts that are called as endpoints"}
	cmd.PersistentFlags().StringVar(&tenant, "tenant", "", "whose prompt it is (default: everybody's)")
	query := func() string { return "?tenant=" + url.QueryEscape(tenant) }
	var output string
	list := &cobra.Command{
		Use: "list", Short: "Show prompts and what their channels stand for", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var found operate.PromptList
			if err := client.get(cmd.Context(), aiPath+"prompts"+query(), &found); err != nil {
				return err
			}
			if output != "table" {
				return printAll(cmd.OutOrStdout(), found.Prompts, output)
			}
			w := columns(cmd.OutOrStdout())
			fmt.Fprintln(w, "PROMPT\tTENANT\tVERSIONS\tLATEST\tSTABLE\tDESCRIPTION")
			for _, p := range found.Prompts {
				stable := "-"
				if p.Stable > 0 {
					stable = strconv.Itoa(p.Stable)
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", p.Slug, p.Tenant, p.Versions, p.Latest, stable, p.Description)
			}
			return w.Flush()
		},
	}
	outputFlag(list, &output)
	show := &cobra.Command{
		Use: "show PROMPT[:VERSION]", Short: "Print a version of a prompt, as it can be published again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var v prompt.Version
			if err := client.get(cmd.Context(), aiPath+"prompts/"+url.PathEscape(args[0])+query(), &v); err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), v.Prompt, "json")
		},
	}
	publish := &cobra.Command{
		Use: "publish FILE", Short: "Publish a prompt from a JSON file, or - for stdin, as its next version", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			content, err := readData(cmd.InOrStdin(), args[0], "@"+args[0])
			if err != nil {
				return err
			}
			var v prompt.Version
			if err := client.call(cmd.Context(), http.MethodPost, aiPath+"prompts"+query(), "", content, &v); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s:%d\n", v.Prompt.Slug, v.Version)
			return err
		},
	}
	move := &cobra.Command{
		Use: "move PROMPT CHANNEL VERSION", Short: "Have latest or stable stand for a version", Args: cobra.ExactArgs(3),
		Example: `  countermand ai prompt move sentiment stable 3`,
		RunE: func(cmd *cobra.Command, args []string) error {
			version, err := strconv.Atoi(args[2])
			if err != nil {
				return failure{wire.ExitUsage, fmt.Errorf("version %q is no number", args[2]), ""}
			}
			return client.call(cmd.Context(), http.MethodPut, aiPath+"prompts/"+url.PathEscape(args[0])+"/"+url.PathEscape(args[1])+query(), "", operate.Move{Version: version}, nil)
		},
	}
	cmd.AddCommand(list, show, publish, move)
	return cmd
}

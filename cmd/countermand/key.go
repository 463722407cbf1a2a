package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/apikey"
)

func keyCommand() *cobra.Command {
	client := new(adminClient)
	cmd := &cobra.Command{
		Use: "key", Short: "Make and end the API keys of clients: create, list, rotate, revoke",
		Long: `Key looks after the API keys by which clients are known to a gateway, through the admin
API of a gateway or a dev process. A key is shown once, when it is made; the database
has its hash only. A client has at most two keys in force.`,
	}
	client.flag(cmd, "a gateway or a dev process")
	cmd.AddCommand(keyCreateCommand(client), keyListCommand(client), keyRotateCommand(client), keyRevokeCommand(client))
	return cmd
}

func keyCreateCommand(client *adminClient) *cobra.Command {
	var (
		body    admin.KeyRequest
		expires time.Duration
		output  string
	)
	cmd := &cobra.Command{
		Use: "create", Short: "Make a key for a client of a tenant, and show it once", Args: cobra.NoArgs,
		Example: `  countermand key create --tenant acme --client shop --scope orders:write --reason 'ticket 4711'
  countermand key create --tenant acme --client ci --expires-in 720h --reason 'nightly tests' -o json | jq -r .secret`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := signed(body.By, body.Reason); err != nil {
				return err
			}
			if body.Tenant == "" || body.Client == "" {
				return failure{wire.ExitUsage, errors.New("a key needs --tenant and --client"), "a tenant owns operations, a client acts for it"}
			}
			if expires < 0 {
				return failure{wire.ExitUsage, errors.New("--expires-in is in the past"), "such as --expires-in 720h"}
			}
			if expires > 0 {
				ends := time.Now().Add(expires).UTC()
				body.ExpiresAt = &ends
			}
			var made admin.MadeKey
			if err := client.call(cmd.Context(), http.MethodPost, "/admin/v1/keys", "", body, &made); err != nil {
				return err
			}
			return printMade(cmd.OutOrStdout(), made, output)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&body.Tenant, "tenant", "", "who owns what is sent with it (required)")
	flags.StringVar(&body.Client, "client", "", "who sends with it (required)")
	flags.StringSliceVar(&body.Scopes, "scope", nil, "what the client may do; may be given several times")
	flags.StringVar(&body.Note, "note", "", "is kept with the key")
	flags.DurationVar(&expires, "expires-in", 0, "when it ends; never by default")
	signFlags(cmd, &body.By, &body.Reason)
	outputFlag(cmd, &output)
	return cmd
}

// printMade prints the key itself on a line of its own.
func printMade(w io.Writer, made admin.MadeKey, output string) error {
	if output != "table" {
		return printJSON(w, made, output)
	}
	_, err := fmt.Fprintf(w, "%s\n\nkey %s of %s/%s; keep it now, it cannot be shown again\n", made.Secret, made.Key.ID, made.Key.Tenant, made.Key.Client)
	return err
}

func keyListCommand(client *adminClient) *cobra.Command {
	var (
		query  = url.Values{}
		ended  bool
		output string
	)
	cmd := &cobra.Command{
		Use: "list", Short: "List the keys in force", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ended {
				query.Set("ended", "true")
			}
			var body admin.Keys
			if err := client.get(cmd.Context(), "/admin/v1/keys?"+query.Encode(), &body); err != nil {
				return err
			}
			if output != "table" {
				return printAll(cmd.OutOrStdout(), body.Keys, output)
			}
			table := columns(cmd.OutOrStdout())
			fmt.Fprintln(table, "KEY\tTENANT\tCLIENT\tSCOPES\tCREATED\tENDS\tLAST USED\tNOTE")
			for _, k := range body.Keys {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Tenant, k.Client, fallback(strings.Join(k.Scopes, " "), "-"),
					k.CreatedAt.Format(time.DateOnly), ends(&k), day(k.LastUsedAt), fallback(oneLine(k.Note), "-"))
			}
			return table.Flush()
		},
	}
	queryFlag(cmd, query, "tenant", "only the keys of this tenant")
	queryFlag(cmd, query, "client", "only the keys of this client")
	cmd.Flags().BoolVar(&ended, "ended", false, "with those that are no longer in force")
	outputFlag(cmd, &output)
	return cmd
}

func ends(k *apikey.Key) string {
	if k.RevokedAt != nil {
		return "revoked " + day(k.RevokedAt)
	}
	return day(k.ExpiresAt)
}

func day(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return at.Local().Format("2006-01-02 15:04")
}

func keyRotateCommand(client *adminClient) *cobra.Command {
	var (
		order   admin.KeyOrder
		overlap time.Duration
		output  string
	)
	cmd := &cobra.Command{
		Use: "rotate ID", Short: "Make a key that takes the place of another one, which ends after the overlap", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := signed(order.By, order.Reason); err != nil {
				return err
			}
			seconds := overlap.Seconds()
			order.OverlapSeconds = &seconds
			var made admin.MadeKey
			if err := client.call(cmd.Context(), http.MethodPost, "/admin/v1/keys/"+url.PathEscape(args[0])+":rotate", "", order, &made); err != nil {
				return err
			}
			return printMade(cmd.OutOrStdout(), made, output)
		},
	}
	cmd.Flags().DurationVar(&overlap, "overlap", 24*time.Hour, "how long the old key stays in force")
	signFlags(cmd, &order.By, &order.Reason)
	outputFlag(cmd, &output)
	return cmd
}

func keyRevokeCommand(client *adminClient) *cobra.Command {
	var (
		order  admin.KeyOrder
		output string
	)
	cmd := &cobra.Command{
		Use: "revoke ID", Short: "End a key now: every gateway refuses it within seconds", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := signed(order.By, order.Reason); err != nil {
				return err
			}
			var key apikey.Key
			if err := client.call(cmd.Context(), http.MethodPost, "/admin/v1/keys/"+url.PathEscape(args[0])+":revoke", "", order, &key); err != nil {
				return err
			}
			if output != "table" {
				return printJSON(cmd.OutOrStdout(), key, output)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  of %s/%s  revoked\n", key.ID, key.Tenant, key.Client)
			return err
		},
	}
	signFlags(cmd, &order.By, &order.Reason)
	outputFlag(cmd, &output)
	return cmd
}

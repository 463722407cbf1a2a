package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/webhook"
)

func webhookCommand() *cobra.Command {
	client := new(adminClient)
	cmd := &cobra.Command{
		Use: "webhook", Short: "Look after webhooks: list, get, pause, resume, approve, test, deliveries, redeliver, delete",
		Long: `Webhook looks after the subscriptions by which events are delivered to HTTP
endpoints, of every tenant, through the admin API of a gateway or a dev process.
Subscribers make and change them over HTTP, at /v1/subscriptions.`,
	}
	client.flag(cmd, "a gateway or a dev process")
	cmd.AddCommand(
		webhookListCommand(client), webhookGetCommand(client), webhookPauseCommand(client),
		webhookVerbCommand(client, "resume", "End a pause and send what has waited, or ask the sink of a disabled one again"),
		webhookVerbCommand(client, "approve", "Say in place of the sink that it agrees, if it knows nothing of the handshake"),
		webhookTestCommand(client), webhookDeliveriesCommand(client), webhookRedeliverCommand(client), webhookDeleteCommand(client),
	)
	return cmd
}

func webhookPath(id string, more ...string) string {
	return "/admin/v1/webhooks/" + strings.Join(append([]string{url.PathEscape(id)}, more...), "/")
}

func webhookListCommand(client *adminClient) *cobra.Command {
	var state, output string
	cmd := &cobra.Command{
		Use: "list", Short: "List webhooks, the oldest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{"limit": {strconv.Itoa(webhook.ListMax)}}
			if state != "" {
				query.Set("state", state)
			}
			all := []webhook.Subscription{} // not nil: an empty list is [] in JSON
			for {
				var page webhook.List
				if err := client.get(cmd.Context(), "/admin/v1/webhooks?"+query.Encode(), &page); err != nil {
					return err
				}
				all = append(all, page.Webhooks...)
				if page.Next == "" {
					return printWebhooks(cmd.OutOrStdout(), all, output)
				}
				query.Set("cursor", page.Next)
			}
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "only this state: pending, active, paused, disabled")
	complete(cmd, "state", "pending", "active", "paused", "disabled")
	outputFlag(cmd, &output)
	return cmd
}

func printWebhooks(w io.Writer, all []webhook.Subscription, output string) error {
	if output != "table" {
		return printAll(w, all, output)
	}
	table := columns(w)
	fmt.Fprintln(table, "ID\tTENANT\tSTATE\tSINK\tTYPES\tCREATED\tNOTE")
	for i := range all {
		s := &all[i]
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.ID, fallback(s.Tenant, "-"), s.State, s.Sink,
			fallback(strings.Join(s.Types, " "), "all"), s.Created.Format(time.DateOnly), webhookNote(s))
	}
	return table.Flush()
}

// webhookNote tells why nothing is sent.
func webhookNote(s *webhook.Subscription) string {
	if s.StateReason == "" && s.RestUntil != nil {
		return "rests until " + s.RestUntil.Format(time.RFC3339)
	}
	return fallback(oneLine(s.StateReason), "-")
}

func webhookGetCommand(client *adminClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "get ID", Short: "Show one webhook", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s webhook.Subscription
			if err := client.get(cmd.Context(), webhookPath(args[0]), &s); err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), s, output)
		},
	}
	outputFlagOf(cmd, &output, "json", "jsonl")
	return cmd
}

func webhookPauseCommand(client *adminClient) *cobra.Command {
	var reason, output string
	cmd := &cobra.Command{
		Use: "pause ID", Short: "Keep events for a webhook and send none until it is resumed", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.orderWebhook(cmd, webhookPath(args[0], "pause"), map[string]string{"reason": reason}, output)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is shown to the subscriber")
	outputFlag(cmd, &output)
	return cmd
}

func webhookVerbCommand(client *adminClient, verb, short string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.orderWebhook(cmd, webhookPath(args[0], verb), nil, output)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// orderWebhook gives an order about a webhook and prints what it is since.
func (c *adminClient) orderWebhook(cmd *cobra.Command, path string, body any, output string) error {
	var s webhook.Subscription
	if err := c.call(cmd.Context(), http.MethodPost, path, "", body, &s); err != nil {
		return err
	}
	if output != "table" {
		return printJSON(cmd.OutOrStdout(), s, output)
	}
	return printWebhooks(cmd.OutOrStdout(), []webhook.Subscription{s}, output)
}

// testPatience is how long test waits for the answer of the sink: longer than a request
// to it may take.
const testPatience = 25 * time.Second

func webhookTestCommand(client *adminClient) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "test ID", Short: "Send a test event to a webhook, and tell what its sink answers", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d webhook.Delivery
			if err := client.call(cmd.Context(), http.MethodPost, webhookPath(args[0], "test"), "", nil, &d); err != nil {
				return err
			}
			for deadline := time.Now().Add(testPatience); d.Attempts == 0 && time.Now().Before(deadline); {
				if err := rest(cmd.Context(), 100*time.Millisecond); err != nil {
					return err
				}
				if err := client.get(cmd.Context(), webhookPath(args[0], "deliveries", d.ID), &d); err != nil {
					return err
				}
			}
			if err := printDeliveries(cmd.OutOrStdout(), []webhook.Delivery{d}, output); err != nil {
				return err
			}
			if d.State != webhook.DeliveryDelivered {
				return failure{wire.ExitFailed, errors.New("the sink did not take it: " + fallback(d.Error, "it was not sent yet")), ""}
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func webhookDeliveriesCommand(client *adminClient) *cobra.Command {
	var (
		query  = url.Values{}
		limit  int
		output string
	)
	cmd := &cobra.Command{
		Use: "deliveries ID [DELIVERY]", Short: "List what was and is to be sent, newest first, or show one with its attempts",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				var d webhook.Delivery
				if err := client.get(cmd.Context(), webhookPath(args[0], "deliveries", url.PathEscape(args[1])), &d); err != nil {
					return err
				}
				if output == "table" {
					output = "json"
				}
				return printJSON(cmd.OutOrStdout(), d, output)
			}
			all := []webhook.Delivery{}
			for len(all) < limit {
				query.Set("limit", strconv.Itoa(min(limit-len(all), webhook.ListMax)))
				var page webhook.DeliveryList
				if err := client.get(cmd.Context(), webhookPath(args[0], "deliveries?"+query.Encode()), &page); err != nil {
					return err
				}
				all = append(all, page.Deliveries...)
				if page.Next == "" {
					break
				}
				query.Set("cursor", page.Next)
			}
			return printDeliveries(cmd.OutOrStdout(), all, output)
		},
	}
	queryFlag(cmd, query, "state", "only this state: pending, delivered, dead")
	complete(cmd, "state", webhook.DeliveryPending, webhook.DeliveryDelivered, webhook.DeliveryDead)
	queryFlag(cmd, query, "type", "only events of this type")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at most")
	outputFlag(cmd, &output)
	return cmd
}

func printDeliveries(w io.Writer, all []webhook.Delivery, output string) error {
	if output != "table" {
		return printAll(w, all, output)
	}
	table := columns(w)
	fmt.Fprintln(table, "DELIVERY\tEVENT\tTYPE\tSTATE\tATTEMPTS\tSTATUS\tCREATED\tERROR")
	for i := range all {
		d := &all[i]
		status := "-"
		if d.Status != 0 {
			status = strconv.Itoa(d.Status)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", d.ID, d.EventID, d.EventType, d.State, d.Attempts, status,
			d.Created.Format(time.RFC3339), fallback(oneLine(d.Error), "-"))
	}
	return table.Flush()
}

func webhookRedeliverCommand(client *adminClient) *cobra.Command {
	var (
		order         webhook.RedeliverOrder
		after, before string
	)
	cmd := &cobra.Command{
		Use: "redeliver ID [DELIVERY]", Short: "Send a delivery again, or all dead letters that the flags select",
		Long: `Redeliver sends events again with the webhook-id that they had: the delivery that is
named, or those that have ended and that the flags select, the oldest first and at
most 1000. Without flags these are the dead letters of the webhook.`,
		Example: `  countermand webhook redeliver 0198… 5b1e…
  countermand webhook redeliver 0198… --type shop.order.placed.v1 --created-after 2h`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				order.Delivery = args[1]
			}
			var err error
			now := time.Now()
			if order.CreatedAfter, err = timeOrAge("created-after", after, now); err != nil {
				return err
			}
			if order.CreatedBefore, err = timeOrAge("created-before", before, now); err != nil {
				return err
			}
			var done webhook.Redelivered
			if err := client.call(cmd.Context(), http.MethodPost, webhookPath(args[0], "redeliver"), "", order, &done); err != nil {
				return err
			}
			more := ""
			if done.Redelivered == webhook.RedeliverMax {
				more = "; there may be more: give the order again"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d redelivered%s\n", done.Redelivered, more)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&order.State, "state", webhook.DeliveryDead, "those that are dead, or delivered")
	complete(cmd, "state", webhook.DeliveryDead, webhook.DeliveryDelivered)
	flags.StringVar(&order.Type, "type", "", "only events of this type")
	flags.StringVar(&after, "created-after", "", "only those made since: a time, or an age such as 2h")
	flags.StringVar(&before, "created-before", "", "only those made before: a time, or an age")
	return cmd
}

func webhookDeleteCommand(client *adminClient) *cobra.Command {
	return &cobra.Command{
		Use: "delete ID", Short: "Delete a webhook; what waits for it is not sent any more", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.call(cmd.Context(), http.MethodDelete, webhookPath(args[0]), "", nil, nil)
		},
	}
}

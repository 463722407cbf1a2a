package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/platform/admin"
	"github.com/countermand/countermand/platform/saga"
)

// verb is what a saga can be told by a command of its own.
type verb struct {
	name  saga.Verb
	short string
	long  string
	step  string // what --step is; empty: there is none
	must  bool   // --step is required
	data  string // what --data is; empty: there is none
	// statuses of the sagas that it is for, to complete their ids.
	statuses []saga.Status
}

var alive = []saga.Status{saga.Stuck, saga.Running, saga.Compensating}

var verbs = []verb{
	{
		name: saga.RetryNow, short: "Issue what a saga waits for again, at once", statuses: alive, step: "only this step",
		long: `Retry issues what the saga waits for again, at once and with all its time. The
command keeps its id, so a participant that has seen it only repeats its reply. A
step whose command was refused is called anew, as a new command. A paused saga goes
on.`,
	},
	{
		name: saga.Skip, short: "Go on as if a step had been done, or undone", statuses: alive, step: "the step", must: true,
		long: `Skip goes on as if the step had been done, or its compensation, with no reply. The
step counts as done: it is undone with the others when the saga compensates later.
Whatever later steps need of its reply is missing in the state; see edit.`,
	},
	{
		name: saga.Complete, short: "Answer a step in its participant's place", statuses: alive, step: "the step", must: true,
		data: "the reply, as JSON; @FILE reads a file, - stdin",
		long: `Complete gives the step the reply in --data, as if its participant had sent it. A
reply that comes later is ignored. Be sure that what the reply says is so.`,
	},
	{
		name: saga.Compensate, short: "Undo what a saga has done; see preview first", statuses: alive,
		long: `Compensate undoes what the saga has done, in reverse, and what it may have done.
It is refused once the pivot has been sent. saga preview shows what would be sent.`,
	},
	{
		name: saga.Cancel, short: "Undo what a saga has done, as its client would", statuses: alive,
		long: `Cancel is compensate with the code cancelled, which a client gets that cancels.`,
	},
	{
		name: saga.Pause, short: "Let a saga send nothing more until it is resumed", statuses: []saga.Status{saga.Running, saga.Compensating, saga.Stuck},
		long: `Pause lets the saga send nothing more, and lets no time run out on it. Replies are
still taken in.`,
	},
	{
		name: saga.Resume, short: "Let a paused saga go on", statuses: alive,
		long: `Resume lets a paused saga go on. What is awaited is issued again, with all its time.`,
	},
	{
		name: saga.Edit, short: "Replace the state of a saga", statuses: alive, data: "the state, as JSON; @FILE reads a file, - stdin; none opens $EDITOR",
		long: `Edit replaces the state, which must fit the definition. Without --data it opens
$VISUAL or $EDITOR on the state as it is; nothing happens when it is left as it was,
and the order is refused when the saga has moved meanwhile.`,
	},
	{
		name: saga.Abandon, short: "End a saga as it stands: nothing more is done or undone", statuses: alive,
		long: `Abandon ends the saga as it stands. Nothing is undone, and nothing can be done to
it any more: whatever it has left behind is yours to clean up.`,
	},
	{
		name: saga.SendSignal, short: "Tell a saga a fact in place of whoever should have", statuses: alive,
		step: "the await that takes it, or the type of the fact", must: true, data: "the payload, as JSON; @FILE reads a file, - stdin",
		long: `Signal tells the saga a fact. One that is not awaited yet is kept until it is.`,
	},
}

// orderFlags are those of every verb.
type orderFlags struct {
	by, reason, step, data, id, output string
	revision                           int64
	dry, follow                        bool
}

func sagaVerbCommand(client *adminClient, v verb) *cobra.Command {
	var f orderFlags
	cmd := &cobra.Command{
		Use: string(v.name) + " ID", Short: v.short, Long: v.long, Args: cobra.ExactArgs(1), ValidArgsFunction: client.completeID(v.statuses...),
		RunE: func(cmd *cobra.Command, args []string) error { return tell(cmd, client, v, f, args[0]) },
	}
	signFlags(cmd, &f.by, &f.reason)
	flags := cmd.Flags()
	flags.BoolVar(&f.dry, "dry-run", false, "show what it would do, and do nothing")
	flags.Int64Var(&f.revision, "revision", 0, "only if the saga is at this revision, as saga get shows it")
	flags.BoolVarP(&f.follow, "watch", "w", false, "follow the saga afterwards, as saga watch does")
	if v.step != "" {
		flags.StringVar(&f.step, "step", "", v.step)
		if err := cmd.RegisterFlagCompletionFunc("step", client.completeStep); err != nil {
			panic(err) // there is no such flag
		}
	}
	if v.data != "" {
		flags.StringVar(&f.data, "data", "", v.data)
	}
	if v.name == saga.SendSignal {
		flags.StringVar(&f.id, "id", "", "id of the signal: twice the same one counts once")
	}
	outputFlag(cmd, &f.output)
	return cmd
}

// signFlags tell who gives an order, and why.
func signFlags(cmd *cobra.Command, by, reason *string) {
	cmd.Flags().StringVar(by, "by", operatorName(), "who gives the order")
	cmd.Flags().StringVar(reason, "reason", "", "why; it is kept with what was done (required)")
}

func operatorName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return os.Getenv("USER")
}

// signed checks who and why.
func signed(by, reason string) error {
	if strings.TrimSpace(by) == "" || strings.TrimSpace(reason) == "" {
		return failure{wire.ExitUsage, errors.New("an order needs --by and --reason"), "say why, for whoever reads it later: --reason 'ticket 4711'"}
	}
	return nil
}

func tell(cmd *cobra.Command, client *adminClient, v verb, f orderFlags, id string) error {
	if err := signed(f.by, f.reason); err != nil {
		return err
	}
	if v.must && f.step == "" {
		return failure{wire.ExitUsage, fmt.Errorf("%s requires --step", v.name), "see what the saga waits for with: countermand saga get " + id}
	}
	request := admin.OrderRequest{By: f.by, Reason: f.reason, Step: f.step, ID: f.id}
	var err error
	if request.Data, err = readData(cmd.InOrStdin(), "--data", f.data); err != nil {
		return err
	}
	if v.name == saga.Edit && request.Data == nil {
		in, err := client.saga(cmd.Context(), id)
		if err != nil {
			return err
		}
		if request.Data, err = editState(cmd, in.State); err != nil {
			return err
		}
		if f.revision == 0 {
			f.revision = in.Revision
		}
	}
	path := "/admin/v1/sagas/" + url.PathEscape(id) + ":" + string(v.name)
	if f.dry {
		path += "?dry_run=true"
	}
	condition := ""
	if f.revision > 0 {
		condition = fmt.Sprintf(`If-Match: "%d"`, f.revision)
	}
	var result admin.OrderResult
	if err := client.call(cmd.Context(), http.MethodPost, path, condition, request, &result); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if f.output != "table" {
		if err := printJSON(out, result, f.output); err != nil {
			return err
		}
	} else {
		if f.dry {
			fmt.Fprintln(out, "dry run: nothing was done")
		}
		fmt.Fprintf(out, "%s  %s@%d  %s  revision %d\n", id, result.Saga.Name, result.Saga.Version, statusOf(&result.Saga.Instance), result.Saga.Revision)
		if err := printSends(out, result.Sends); err != nil {
			return err
		}
	}
	if f.follow && !f.dry {
		return watch(cmd, client, id, f.output)
	}
	return nil
}

func statusOf(in *saga.Instance) string {
	if in.Paused {
		return string(in.Status) + ", paused"
	}
	return string(in.Status)
}

// dataBytesMax bounds what is read as data; the admin API takes less.
const dataBytesMax = 4 << 20

// readData returns JSON that is given, or is in a file (@FILE), or comes from stdin (-
// or @-); nil when there is none. what names it in errors.
func readData(stdin io.Reader, what, text string) (data json.RawMessage, err error) {
	name, isFile := strings.CutPrefix(text, "@")
	switch {
	case text == "":
		return nil, nil
	case name == "-":
		data, err = io.ReadAll(io.LimitReader(stdin, dataBytesMax))
	case isFile:
		data, err = os.ReadFile(name)
	default:
		data = json.RawMessage(text)
	}
	if err != nil {
		return nil, failure{wire.ExitUsage, fmt.Errorf("%s: %w", what, err), ""}
	}
	if !json.Valid(data) {
		return nil, failure{wire.ExitUsage, errors.New(what + " is not JSON"), `quote it for the shell, such as '{"id":"x"}', or put it in a file and give @file.json`}
	}
	return bytes.TrimSpace(data), nil
}

// editState has the operator edit JSON in an editor.
func editState(cmd *cobra.Command, state json.RawMessage) (json.RawMessage, error) {
	editor := fallback(os.Getenv("VISUAL"), os.Getenv("EDITOR"))
	if editor == "" {
		return nil, failure{wire.ExitUsage, errors.New("there is no --data and no editor"), "set EDITOR, or give a file with --data @FILE"}
	}
	var before bytes.Buffer
	if err := json.Indent(&before, state, "", "  "); err != nil {
		return nil, fmt.Errorf("what is to be edited: %w", err)
	}
	before.WriteByte('\n')
	file, err := os.CreateTemp("", "countermand-edit-*.json")
	if err != nil {
		return nil, fmt.Errorf("edit: %w", err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.Write(before.Bytes())
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("edit: %w", err)
	}
	words := strings.Fields(editor) // such as "code --wait"
	run := exec.CommandContext(cmd.Context(), words[0], append(words[1:], file.Name())...)
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stderr, os.Stderr // stdout is for data
	if err := run.Run(); err != nil {
		return nil, failure{wire.ExitFailed, fmt.Errorf("%s: %w", editor, err), "nothing was changed"}
	}
	after, err := os.ReadFile(file.Name())
	if err != nil {
		return nil, fmt.Errorf("edit: %w", err)
	}
	if bytes.Equal(after, before.Bytes()) {
		return nil, failure{wire.ExitFailed, errors.New("it was left as it is, so nothing was done"), ""}
	}
	if !json.Valid(after) {
		return nil, failure{wire.ExitFailed, errors.New("what you wrote is not JSON, so nothing was done"), ""}
	}
	return after, nil
}

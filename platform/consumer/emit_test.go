package consumer_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
	"github.com/countermand/countermand/platform/consumer"
)

// nextFacts returns the next n facts.
func (r *rig) nextFacts(n int) (all []events.Event) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	for len(all) < n {
		deliveries, err := r.facts.Next(ctx, n-len(all))
		if err != nil {
			r.t.Fatalf("after %d facts: %v", len(all), err)
		}
		for i := range deliveries {
			all = append(all, deliveries[i].Event)
		}
	}
	return all
}

func TestEmit(t *testing.T) {
	t.Parallel()
	t.Run("alike facts of one handler are all published", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(ctx context.Context, _ pgx.Tx, _ int) error {
			for range 3 {
				if err := consumer.Emit(ctx, reserved, "tea", item{"TEA"}); err != nil {
					return err
				}
			}
			return consumer.Emit(ctx, reserved, "", item{"no subject"})
		})
		r.feed()
		a := command(t, reserve, 0, "a")
		a.SetExtension(events.TenantExtension, "acme")
		r.send(a)
		r.wantReply(a, "")
		facts := r.nextFacts(4)
		for _, e := range facts {
			if got := e.Extension(events.TenantExtension); got != "acme" {
				t.Errorf("the fact is of the tenant %q", got)
			}
			want := "tea"
			if e.Subject == "" {
				want = a.PartitionKey
			}
			if e.PartitionKey != want || e.CausationID != a.ID || time.Since(e.Time) > time.Minute {
				t.Errorf("fact %+v", e)
			}
		}
	})
	t.Run("a fact that no broker takes makes a dead letter at once, with nothing written", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(ctx context.Context, _ pgx.Tx, _ int) error {
			return consumer.Emit(ctx, reserved, "a\nb", item{})
		})
		r.on("reserve b", func(ctx context.Context, _ pgx.Tx, _ int) error {
			return consumer.Emit(ctx, reserved, "b", item{strings.Repeat("x", broker.MessageBytesMax)})
		})
		r.feed()
		r.send(command(t, reserve, 0, "a"), command(t, reserve, 0, "b"))
		r.pass(0)
		for _, got := range r.letters(2) {
			if got.Attempts != 1 || !strings.Contains(got.Error, "emit test.stock.reserved.v1") {
				t.Errorf("dead letter %+v", got)
			}
		}
		r.wantEffects()
	})
	t.Run("outside of a handler is a programmer's mistake", func(t *testing.T) {
		t.Parallel()
		for what, call := range map[string]func(){
			"Emit":        func() { _ = consumer.Emit(t.Context(), reserved, "x", item{}) },
			"DeferredKey": func() { consumer.DeferredKey(t.Context()) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s did not panic", what)
					}
				}()
				call()
			}()
		}
		if consumer.Command(t.Context()) != nil {
			t.Error("there is a command")
		}
	})
}

func TestReply(t *testing.T) {
	t.Parallel()
	t.Run("to an address that is none, or that no broker takes, is a dead letter at once, with nothing written", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		huge := events.NewCommand[item, string]("test.stock.dump.v1")
		r.commands = r.processor(r.wake, 3, consumer.Handle(huge, func(ctx context.Context, tx pgx.Tx, request item) (string, error) {
			_, err := r.handle(ctx, tx, "dump", request)
			return strings.Repeat("x", broker.MessageBytesMax), err
		}))
		r.feed()
		nowhere := command(t, reserve, 0, "a")
		nowhere.ReplyTo = "no topic.*"
		r.send(nowhere, command(t, huge, 0, "b"))
		r.pass(0)
		got := r.letters(2)
		if got[0].Attempts != 1 || !strings.Contains(got[0].Error, `"no topic.*"`) || got[1].Attempts != 1 || !strings.Contains(got[1].Error, "bytes") {
			t.Errorf("dead letters %+v", got)
		}
		r.wantEffects()
	})
	t.Run("with a very long reason is cut short, and says the same again", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		r.on("reserve a", func(context.Context, pgx.Tx, int) error {
			return events.Reject("out_of_stock", "%s", strings.Repeat("é", 1<<20))
		})
		r.feed()
		a := command(t, reserve, 0, "a")
		r.send(a, a)
		for range 2 {
			r.wantReply(a, "out_of_stock")
		}
	})
	t.Run("continues the trace from the handler's span", func(t *testing.T) {
		t.Parallel()
		r := setup(t)
		commands, err := consumer.NewCommands(r.pool, consumer.CommandsConfig{
			Name: name, Wake: r.wake, Tracer: sdktrace.NewTracerProvider().Tracer("test"), Logger: r.logger,
		}, consumer.Handle(reserve, func(context.Context, pgx.Tx, item) (ticket, error) { return ticket{}, nil }))
		if err != nil {
			t.Fatal(err)
		}
		r.commands = commands
		r.feed()
		a := command(t, reserve, 0, "a")
		a.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		r.send(a)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		got, err := r.replies.Next(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		parent := got[0].Event.TraceParent
		if !strings.HasPrefix(parent, a.TraceParent[:35]) || parent == a.TraceParent {
			t.Errorf("the reply's parent is %q, the command's %q", parent, a.TraceParent)
		}
	})
}

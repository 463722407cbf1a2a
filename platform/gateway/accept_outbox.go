package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/countermand/countermand/platform/broker"
)

// Intake stores commands durably without the broker, and has them published when it
// takes them. [intake.Intake] is one.
type Intake interface {
	// Accept stores a command; its nil error is the durable ack. One with a fingerprint
	// has a key: when a command of its publish id was stored before, nothing is, repeated
	// is true and first is the fingerprint of that one.
	Accept(ctx context.Context, m broker.Message, fingerprint string) (first string, repeated bool, err error)
	// Oldest returns since when a command waits for the broker; the zero time when none
	// does.
	Oldest(ctx context.Context) (time.Time, error)
}

// storeInOutbox is publish for a route that accepts by the outbox.
func (g *Gateway) storeInOutbox(ctx context.Context, x *exchange, r *http.Request, a *acceptance, c *submission, m broker.Message) bool {
	var fingerprint string
	if c.keyed {
		fingerprint = c.fingerprint
	}
	first, repeated, err := g.deps.Intake.Accept(ctx, m, fingerprint)
	switch {
	case err == nil && repeated:
		return g.repeat(x, r, c, first)
	case err == nil:
		return true
	case errors.Is(err, broker.ErrOverloaded):
		x.failLater(r, codeOverloaded, "Nothing was started. Try again in a moment.")
	case errors.Is(err, broker.ErrRejected):
		x.failInternal(r, "accept "+a.contract.Type+" "+c.id, err)
	default:
		g.logger.WarnContext(r.Context(), "command was not confirmed by the database",
			slog.String("operation_id", c.id), slog.String("command", a.contract.Type), slog.Any("error", err))
		x.failLater(r, codeStoreUnavailable, unconfirmed(c.keyed))
	}
	return false
}

// intakeSlack is by how much the time of an id may be before that of its command in the
// outbox.
const intakeSlack = time.Minute

// waits reports whether a command that was accepted at that time may still wait for the
// broker.
func (g *Gateway) waits(ctx context.Context, accepted time.Time) (bool, error) {
	if g.deps.Intake == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.config.LookupTimeout)
	defer cancel()
	oldest, err := g.deps.Intake.Oldest(ctx)
	return !oldest.IsZero() && oldest.Before(accepted.Add(intakeSlack)), err
}

// durabilityHeader tells what a command survives that was accepted.
const durabilityHeader = "Countermand-Durability"

func (g *Gateway) durabilityOf(outbox bool) string {
	if outbox {
		return g.config.IntakeDurability
	}
	return g.config.Durability
}

// tellDurability puts into the header of an answer what was stored survives.
func (x *exchange) tellDurability(class string) {
	if class != "" {
		x.Header().Set(durabilityHeader, class)
	}
}

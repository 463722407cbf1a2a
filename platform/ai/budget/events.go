package budget

import (
	"strconv"
	"strings"
	"time"

	"github.com/countermand/countermand/events"
	aievents "github.com/countermand/countermand/events/ai"
	"github.com/countermand/countermand/platform/ai"
	"github.com/countermand/countermand/platform/broker"
)

// Source of the events about money.
const source = "/ai/budgets"

const doubt = "uncertain: "

func isDoubtful(reason string) bool { return strings.HasPrefix(reason, doubt) }

// Topics lists where the package's events go, for whoever makes topics.
func Topics() []events.Topic {
	return []events.Topic{aievents.UsageRecorded.Topic(), aievents.CallReleased.Topic(), aievents.Exhausted.Topic()}
}

// message makes an event that is the same whenever it is made for the same parts.
func message[T any](fact events.Fact[T], tenant, subject string, payload T, now time.Time, parts ...string) (broker.Message, error) {
	e, err := fact.New(events.DeriveID(append(parts, fact.Type())...), source, payload, now)
	if err != nil {
		return broker.Message{}, err
	}
	e.Subject, e.PartitionKey = subject, subject
	if tenant != "" {
		e.SetExtension(events.TenantExtension, tenant)
	}
	return broker.Message{Topic: fact.Topic(), PublishID: e.ID, Event: e}, nil
}

// eventsOf returns the events about attempts that have ended.
func eventsOf(entries []*entry, quiet bool, now time.Time) ([]broker.Message, error) {
	if quiet {
		return nil, nil
	}
	var messages []broker.Message
	for _, e := range entries {
		if e.state == dispatched {
			continue
		}
		payload := aievents.AttemptEnded{
			CallID: e.id.String(), Attempt: e.number, Caller: aievents.Caller(text3(e.call.Caller)),
			Operation: text(e.call.Operation), Requested: text(e.call.Model), Provider: text(e.model.Provider), Model: text(e.model.Name),
			Usage: aievents.Usage(e.usage), Source: string(e.source), CostNano: e.charge(), Price: e.price, PriceVersion: e.version,
			Reason: text(e.reason), Saga: text(e.call.Saga),
		}
		// An attempt that is uncertain says so first, also where the policy ends it.
		if e.doubtful && e.before != uncertain {
			unknown := payload
			unknown.CostNano, unknown.HeldNano = nil, int64(e.most)
			if err := appendEvent(&messages, aievents.CallUncertain, e, unknown, now); err != nil {
				return nil, err
			}
		}
		fact := aievents.UsageRecorded
		switch e.state {
		case uncertain:
			continue
		case released:
			fact = aievents.CallReleased
		default:
		}
		if err := appendEvent(&messages, fact, e, payload, now); err != nil {
			return nil, err
		}
	}
	return messages, nil
}

func appendEvent(messages *[]broker.Message, fact events.Fact[aievents.AttemptEnded], e *entry, payload aievents.AttemptEnded, now time.Time) error {
	m, err := message(fact, payload.Caller.Tenant, payload.CallID, payload, now, payload.CallID, strconv.Itoa(e.number))
	if err != nil {
		return err
	}
	*messages = append(*messages, m)
	return nil
}

// text3 makes a caller fit to be stored.
func text3(c ai.Caller) ai.Caller {
	return ai.Caller{Tenant: text(c.Tenant), App: text(c.App), Key: text(c.Key)}
}

func stateEvent(s PeriodStatus) aievents.BudgetState {
	return aievents.BudgetState{
		Budget: s.Budget.ID, Tenant: s.Budget.Tenant, App: s.Budget.App, Key: s.Budget.Key, Unit: string(s.Budget.Unit), Period: string(s.Budget.Period),
		StartsAt: s.StartsAt.UTC(), EndsAt: s.EndsAt.UTC(), Limit: s.Budget.Limit, Spent: s.Spent, Reserved: s.Reserved,
	}
}

func thresholdEvent(s PeriodStatus, percent int) (broker.Message, error) {
	payload := stateEvent(s)
	payload.Percent = percent
	return message(aievents.ThresholdReached, s.Budget.Tenant, s.Budget.ID, payload, time.Now(),
		s.Budget.ID, strconv.FormatInt(s.StartsAt.UnixMicro(), 10), strconv.Itoa(percent), strconv.FormatInt(s.Budget.Limit, 10))
}

func exhaustedEvent(b *Budget, g *granted) (broker.Message, error) {
	fresh := *b
	fresh.Limit = g.limit
	return message(aievents.Exhausted, b.Tenant, b.ID,
		stateEvent(PeriodStatus{Budget: fresh, StartsAt: g.starts, EndsAt: g.ends, Spent: g.spent, Reserved: g.reserved}), g.now,
		b.ID, strconv.FormatInt(g.starts.UnixMicro(), 10), strconv.FormatInt(g.limit, 10))
}

package budget

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/platform/ai"
)

// queueAttempts adds the statements that insert new attempts and end known ones.
func queueAttempts(batch *pgx.Batch, entries []*entry, now time.Time) error {
	var inserted, ended columns
	for _, e := range entries {
		into := &inserted
		if e.before != "" {
			into = &ended
		}
		if err := into.add(e, now); err != nil {
			return err
		}
	}
	if c := &inserted; len(c.ids) > 0 {
		batch.Queue(`
			insert into ai_attempt (call_id, attempt, state, input, cached_input, cache_write, output, reasoning, usage_source, cost, reason, ended_at,
				holder_id, tenant, app, key, operation, requested, provider, model, saga_id, held, most, price, price_version, dispatched_at)
			select * from unnest($1::uuid[], $2::smallint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::text[],
				$10::bigint[], $11::text[], $12::timestamptz[], $13::uuid[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[],
				$20::text[], $21::text[], $22::jsonb[], $23::bigint[], $24::text[], $25::text[], $26::timestamptz[])`,
			c.ids, c.numbers, c.states, c.input, c.cached, c.writes, c.output, c.reasoning, c.sources, c.costs, c.reasons, c.ended,
			c.holders, c.tenants, c.apps, c.keys, c.operations, c.requested, c.providers, c.models, c.sagas, c.held, c.most, c.prices, c.versions, c.begun)
	}
	if c := &ended; len(c.ids) > 0 {
		batch.Queue(`
			update ai_attempt a set state = n.state, input = n.input, cached_input = n.cached_input, cache_write = n.cache_write, output = n.output,
				reasoning = n.reasoning, usage_source = n.usage_source, cost = n.cost, reason = n.reason, ended_at = n.ended_at
			from unnest($1::uuid[], $2::smallint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::text[],
				$10::bigint[], $11::text[], $12::timestamptz[])
				as n (call_id, attempt, state, input, cached_input, cache_write, output, reasoning, usage_source, cost, reason, ended_at)
			where a.call_id = n.call_id and a.attempt = n.attempt`,
			c.ids, c.numbers, c.states, c.input, c.cached, c.writes, c.output, c.reasoning, c.sources, c.costs, c.reasons, c.ended)
	}
	return nil
}

// columns are attempts for unnest.
type columns struct {
	ids, holders                                                                                         []uuid.UUID
	numbers                                                                                              []int16
	states, sources, reasons, tenants, apps, keys, operations, requested, providers, models, sagas, held []string
	prices, versions                                                                                     []string
	input, cached, writes, output, reasoning, most                                                       []int64
	costs                                                                                                []*int64
	begun                                                                                                []time.Time
	ended                                                                                                []*time.Time
}

func (c *columns) add(e *entry, now time.Time) error {
	held, err := holdsJSON(e.held)
	if err != nil {
		return fmt.Errorf("encode what attempt %d of call %s holds: %w", e.number, e.id, err)
	}
	var ended *time.Time
	if e.state != dispatched {
		ended = &now
	}
	c.ids, c.holders, c.numbers = append(c.ids, e.id), append(c.holders, e.holder), append(c.numbers, int16(e.number))
	c.states, c.sources, c.reasons = append(c.states, string(e.state)), append(c.sources, string(e.source)), append(c.reasons, text(e.reason))
	c.tenants, c.apps, c.keys = append(c.tenants, text(e.call.Caller.Tenant)), append(c.apps, text(e.call.Caller.App)), append(c.keys, text(e.call.Caller.Key))
	c.operations, c.requested = append(c.operations, text(e.call.Operation)), append(c.requested, text(e.call.Model))
	c.providers, c.models, c.sagas = append(c.providers, text(e.model.Provider)), append(c.models, text(e.model.Name)), append(c.sagas, text(e.call.Saga))
	c.held, c.most, c.costs = append(c.held, held), append(c.most, int64(e.most)), append(c.costs, e.charge())
	c.prices, c.versions = append(c.prices, e.price), append(c.versions, e.version)
	c.input, c.cached, c.writes = append(c.input, e.usage.Input), append(c.cached, e.usage.CachedInput), append(c.writes, e.usage.CacheWrite)
	c.output, c.reasoning = append(c.output, e.usage.Output), append(c.reasoning, e.usage.Reasoning)
	c.begun, c.ended = append(c.begun, e.begun), append(c.ended, ended)
	return nil
}

// text makes what clients name fit to be stored: one row that Postgres refuses would
// hold up the books.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(clip(s), "\uFFFD"), "\x00", "\uFFFD")
}

// charge returns what is charged for the attempt; nil: nothing is, or nobody knows.
func (e *entry) charge() *int64 {
	if e.state != settled || !e.priced {
		return nil
	}
	cost := int64(e.cost)
	return &cost
}

// queueLedger adds the statement that inserts the charges.
func queueLedger(batch *pgx.Batch, entries []*entry) {
	var c columns
	var amounts []int64
	for _, e := range entries {
		if charge := e.charge(); charge != nil {
			amounts = append(amounts, *charge)
			_ = c.add(e, time.Time{}) // has been added to attempts before
		}
	}
	if len(amounts) == 0 {
		return
	}
	batch.Queue(`
		insert into ai_ledger (call_id, attempt, kind, amount, tenant, app, key, provider, model, usage_source, price, price_version)
		select call_id, attempt, 'charge', amount, tenant, app, key, provider, model, usage_source, price, price_version
		from unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[])
			as n (call_id, attempt, amount, tenant, app, key, provider, model, usage_source, price, price_version)`,
		c.ids, c.numbers, amounts, c.tenants, c.apps, c.keys, c.providers, c.models, c.sources, c.prices, c.versions)
}

// usageKey is a row of the hourly sums.
type usageKey struct {
	caller    ai.Caller
	model     ai.Model
	operation string
}

func (k usageKey) compare(other usageKey) int {
	return slices.Compare(
		[]string{k.caller.Tenant, k.caller.App, k.caller.Key, k.model.Provider, k.model.Name, k.operation},
		[]string{other.caller.Tenant, other.caller.App, other.caller.Key, other.model.Provider, other.model.Name, other.operation})
}

// usageSum is what is added to a row of the hourly sums.
type usageSum struct {
	settled, released, uncertain, unpriced int64
	usage                                  ai.Usage
	cost                                   ai.NanoUSD
}

// queueUsage adds the statement that adds attempts which have ended to the hourly sums.
func queueUsage(batch *pgx.Batch, entries []*entry, now time.Time) {
	sums := make(map[usageKey]usageSum)
	for _, e := range entries {
		if e.state == dispatched {
			continue
		}
		key := usageKey{
			ai.Caller{Tenant: text(e.call.Caller.Tenant), App: text(e.call.Caller.App), Key: text(e.call.Caller.Key)},
			ai.Model{Provider: text(e.model.Provider), Name: text(e.model.Name)},
			text(e.call.Operation),
		}
		s := sums[key]
		switch e.state {
		case settled:
			s.settled++
			s.usage, s.cost = s.usage.Plus(e.usage), s.cost.Plus(e.cost)
			if !e.priced {
				s.unpriced++
			}
		case released:
			s.released++
		case uncertain:
			s.uncertain++
		default:
		}
		if e.before == uncertain { // it was counted as that
			s.uncertain--
		}
		sums[key] = s
	}
	if len(sums) == 0 {
		return
	}
	keys := make([]usageKey, 0, len(sums))
	for key := range sums {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, usageKey.compare)
	var c columns
	n := len(keys)
	settledN, releasedN, uncertainN, unpricedN, costs := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i, key := range keys {
		s := sums[key]
		c.tenants, c.apps, c.keys = append(c.tenants, key.caller.Tenant), append(c.apps, key.caller.App), append(c.keys, key.caller.Key)
		c.providers, c.models, c.operations = append(c.providers, key.model.Provider), append(c.models, key.model.Name), append(c.operations, key.operation)
		c.input, c.cached, c.writes = append(c.input, s.usage.Input), append(c.cached, s.usage.CachedInput), append(c.writes, s.usage.CacheWrite)
		c.output, c.reasoning = append(c.output, s.usage.Output), append(c.reasoning, s.usage.Reasoning)
		settledN[i], releasedN[i], uncertainN[i], unpricedN[i], costs[i] = s.settled, s.released, s.uncertain, s.unpriced, int64(s.cost)
	}
	batch.Queue(`
		insert into ai_usage_hourly as u (hour, tenant, app, key, provider, model, operation,
			settled, released, uncertain, unpriced, input, cached_input, cache_write, output, reasoning, cost)
		select date_trunc('hour', $1::timestamptz, 'UTC'), * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
			$8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[])
		on conflict (hour, tenant, app, key, provider, model, operation) do update set
			settled = u.settled + excluded.settled, released = u.released + excluded.released, uncertain = u.uncertain + excluded.uncertain,
			unpriced = u.unpriced + excluded.unpriced, input = u.input + excluded.input, cached_input = u.cached_input + excluded.cached_input,
			cache_write = u.cache_write + excluded.cache_write, output = u.output + excluded.output, reasoning = u.reasoning + excluded.reasoning,
			cost = u.cost + excluded.cost`,
		now, c.tenants, c.apps, c.keys, c.providers, c.models, c.operations,
		settledN, releasedN, uncertainN, unpricedN, c.input, c.cached, c.writes, c.output, c.reasoning, costs)
}

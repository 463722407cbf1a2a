package webhook

import (
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/countermand/countermand/events"
)

// writing collects the rows of events and of their deliveries.
type writing struct {
	retryFor time.Duration

	events     []uuid.UUID
	attributes [][]byte
	data       [][]byte

	deliveries, subscriptions, of []uuid.UUID
	types, keys                   []string
	ordered                       []bool
}

// add has an event delivered to a subscription.
func (w *writing) add(e *events.Event, topic events.Topic, tenant string, to match) {
	// Whoever may choose source and id of an event chooses them for its tenant and topic
	// only: it cannot pass its own off as somebody else's, or keep that from coming.
	id := events.DeriveUUID("webhook event", string(topic), tenant, e.Source, e.ID)
	if !slices.Contains(w.events, id) { // a batch is small
		w.events = append(w.events, id)
		w.attributes, w.data = append(w.attributes, events.AppendAttributes(nil, e)), append(w.data, e.Data)
	}
	w.deliveries = append(w.deliveries, events.DeriveUUID("webhook delivery", to.id.String(), id.String()))
	w.subscriptions, w.of = append(w.subscriptions, to.id), append(w.of, id)
	w.types, w.keys, w.ordered = append(w.types, e.Type), append(w.keys, e.Key()), append(w.ordered, to.ordered)
}

// queue adds the statements that write the rows. What is there already, since an event
// is read again or was published twice, stays as it is; its event is touched, so that the
// clean-up does not take it away meanwhile.
func (w *writing) queue(batch *pgx.Batch) {
	if len(w.deliveries) == 0 {
		return
	}
	batch.Queue(`
		insert into webhook_event (id, attributes, data)
		select * from unnest($1::uuid[], $2::bytea[], $3::bytea[])
		on conflict (id) do update set stored_at = excluded.stored_at`, w.events, w.attributes, w.data)
	batch.Queue(`
		insert into webhook_delivery (id, subscription, event, event_type, key, ordered, give_up_at)
		select id, subscription, event, event_type, key, ordered, clock_timestamp() + $7::interval
		from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::boolean[])
			with ordinality as n (id, subscription, event, event_type, key, ordered, place)
		order by place
		on conflict (id) do nothing`, w.deliveries, w.subscriptions, w.of, w.types, w.keys, w.ordered, w.retryFor)
}

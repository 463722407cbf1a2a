-- +goose Up
-- Who wants which events, and where. The columns after the revision belong to the
-- sender and change without it.
create table webhook_subscription (
	id           uuid        primary key,
	tenant       text        not null,
	client       text        not null,
	revision     bigint      not null default 1,
	state        text        not null check (state in ('pending', 'active', 'paused', 'disabled', 'deleted')),
	reason       text        not null default '',
	document     json        not null, -- what the subscriber states, without secrets
	credential   bytea,                -- sealed
	secrets      bytea       not null, -- sealed
	lane         smallint    not null,
	created_at   timestamptz not null default clock_timestamp(),
	updated_at   timestamptz not null default clock_timestamp(),
	since        timestamptz not null default clock_timestamp(), -- when it began to wait for permission
	granted_at   timestamptz,          -- null: the sink has not said yes
	granted_by   text        not null default '' check (granted_by in ('', 'sink', 'callback', 'operator')),
	allowed_rate integer,              -- requests per minute that the sink allows; null: any
	ask_at       timestamptz,          -- when to ask the sink for permission; null: not
	asked        integer     not null default 0, -- how often it was asked in vain
	callback     bytea,                -- digest of the token that grants permission
	failures     integer     not null default 0, -- of the sink, in a row
	rest_until   timestamptz           -- nothing is sent to the sink before
);

create index webhook_subscription_tenant on webhook_subscription (tenant, id) where state <> 'deleted';
create unique index webhook_subscription_callback on webhook_subscription (callback) where callback is not null;

-- Counts the changes of subscriptions that matter for matching. A transaction that
-- matches events reads it, so that it never matches by a subscription that is gone or
-- misses one that was there before the event.
create table webhook_generation (
	n bigint not null
);

insert into webhook_generation values (1);

-- Events that somebody waits for. The id derives from tenant, topic, source and id of
-- the event, so a copy of an event is the same row.
create table webhook_event (
	id         uuid        primary key,
	attributes bytea       not null,
	data       bytea,
	stored_at  timestamptz not null default clock_timestamp()
);

create index webhook_event_stored on webhook_event (stored_at);

-- One event for one subscription. The id derives from both: it is the webhook-id, and
-- keeps an event that is read again from being delivered again. The table has no check
-- constraints, since every delivery writes it.
create table webhook_delivery (
	id           uuid        primary key,
	seq          bigint      generated always as identity,
	subscription uuid        not null,
	event        uuid        not null,
	event_type   text        not null,
	key          text        not null, -- of the event
	ordered      boolean     not null, -- waits for earlier ones of its key
	state        text        not null default 'pending', -- or delivered, dead
	attempts     integer     not null default 0,
	tried        integer     not null default 0, -- attempts since it was made, redelivered or resumed
	due_at       timestamptz not null default clock_timestamp(),
	give_up_at   timestamptz not null,
	created_at   timestamptz not null default clock_timestamp(),
	ended_at     timestamptz,
	status       integer,              -- the last answer
	error        text        not null default ''
) with (fillfactor = 80);

create index webhook_delivery_due on webhook_delivery (subscription, due_at) where state = 'pending';
create index webhook_delivery_key on webhook_delivery (subscription, key, seq) where state = 'pending' and ordered;
create index webhook_delivery_give_up on webhook_delivery (give_up_at) where state = 'pending';
create index webhook_delivery_list on webhook_delivery (subscription, seq);
create index webhook_delivery_dead on webhook_delivery (subscription, seq) where state = 'dead';
create index webhook_delivery_ended on webhook_delivery (ended_at) where ended_at is not null;
create index webhook_delivery_event on webhook_delivery (event);

-- What became of each attempt. It goes with its delivery.
create table webhook_attempt (
	delivery    uuid        not null,
	number      integer     not null,
	began_at    timestamptz not null,
	duration_ms integer     not null,
	status      integer,             -- null: there was no answer
	error       text        not null,
	primary key (delivery, number)
);

-- +goose Up
-- What is set aside: 'dead' is what the broker will never take; 'parked' is what was
-- not tried, because a dead row of its key is before it. Rows of before this have
-- lane 0 and park nothing: what came after them is published already.
alter table outbox_dead
	add column lane  smallint not null default 0,
	add column key   text     not null default '',
	add column state text     not null default 'dead',
	add column parks boolean  not null default false; -- later rows of the key wait for it

-- What a relay looks for once a second: there is next to nothing in it.
create index outbox_dead_parks on outbox_dead (lane, key) where parks;
create index outbox_dead_parked on outbox_dead (lane, key, id) where state = 'parked';

-- What operators did to rows that were set aside.
create table outbox_log (
	id         bigint      generated always as identity primary key,
	row        bigint      not null,
	verb       text        not null, -- requeue, discard
	done_by    text        not null,
	note       text        not null,
	done_at    timestamptz not null default clock_timestamp(),
	publish_id text        not null,
	topic      text        not null,
	error      text        not null,
	attributes bytea       not null,
	data       bytea
);

create index outbox_log_row on outbox_log (row, id);

-- Events that are not to be published before a time.
create table outbox_delayed (
	id         text        primary key, -- by which it can be cancelled
	seq        bigint      generated always as identity,
	lane       smallint    not null,
	due_at     timestamptz not null,
	publish_id text        not null,
	topic      text        not null,
	attributes bytea       not null,
	data       bytea,
	created_at timestamptz not null default clock_timestamp()
);

create index outbox_delayed_due on outbox_delayed (due_at, seq);

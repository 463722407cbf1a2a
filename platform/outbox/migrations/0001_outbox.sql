-- +goose Up
-- The sequence must not cache: with cache 1, the order of ids within a key is the
-- order of its commits, because writers of one key wait for each other.
create sequence outbox_id as bigint cache 1;

create table outbox (
	lane       smallint    not null,
	id         bigint      not null default nextval('outbox_id'),
	publish_id text        not null, -- empty: it is the id of the event
	topic      text        not null,
	attributes bytea       not null,
	data       bytea,
	created_at timestamptz not null default clock_timestamp(),
	primary key (lane, id)
) with (
	-- Rows live for milliseconds, so dead ones pile up at the head of every lane,
	-- where the relay reads. Vacuum by number, not by share of the table.
	autovacuum_vacuum_scale_factor = 0,
	autovacuum_vacuum_threshold = 2000,
	autovacuum_vacuum_cost_delay = 0
);

-- Events that the broker will never take, with the reason.
create table outbox_dead (
	id         bigint      primary key,
	publish_id text        not null,
	topic      text        not null,
	attributes bytea       not null,
	data       bytea,
	created_at timestamptz not null,
	died_at    timestamptz not null default clock_timestamp(),
	error      text        not null
);

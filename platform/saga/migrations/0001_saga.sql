-- +goose Up
create table saga (
	id          uuid        primary key,
	definition  text        not null check (definition <> ''),
	version     integer     not null check (version > 0),
	status      text        not null check (status in ('running', 'compensating', 'completed', 'compensated', 'stuck', 'abandoned')),
	revision    bigint      not null check (revision > 0),
	document    bytea       not null,
	created_at  timestamptz not null,
	updated_at  timestamptz not null
) with (fillfactor = 70); -- room for HOT updates: no index below changes between two steps

create index saga_created on saga (created_at desc);
create index saga_live on saga (definition, version, created_at) where status in ('running', 'compensating', 'stuck');

-- One row per saga that waits for something; due_at may be early, never late.
create table saga_timer (
	saga_id uuid        primary key,
	due_at  timestamptz not null
);
create index saga_timer_due on saga_timer (due_at);

-- Fails the transaction of an engine whose sagas were changed by another.
-- +goose StatementBegin
create function saga_expect(actual bigint, expected bigint) returns void language plpgsql as $$
begin
	if actual <> expected then
		raise exception 'saga revision conflict: % of % rows' , actual, expected using errcode = 'CM409';
	end if;
end $$;
-- +goose StatementEnd

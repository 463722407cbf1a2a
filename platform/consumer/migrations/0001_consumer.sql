-- +goose Up
-- The tables that every command writes have no check constraints: Postgres reads
-- their text anew for each statement, a tenth of what a command costs.

-- How far each consumer has come in each partition. It moves in the same
-- transaction as the effects, so a message is never handled twice for want of an
-- acknowledgement, and a stale owner's transaction fails on it.
create table consumer_position (
	consumer   text        not null,
	topic      text        not null,
	partition  integer     not null,
	epoch      text        not null,
	handled    bigint      not null,
	updated_at timestamptz not null default clock_timestamp(),
	primary key (consumer, topic, partition)
) with (fillfactor = 50);

-- Commands that were handled, with what to answer when they come again: the data
-- of the reply ('replied'), or the rejection ('rejected'). 'deferred' commands keep their attributes, for
-- the reply that comes later. 'revoked' is a tombstone: the compensation came
-- first, or undid a command that had not replied, and the command must have no
-- effect any more.
create table inbox (
	key        uuid        primary key,
	status     text        not null,
	command    bytea,      -- of deferred and revoked ones
	answer     bytea,
	handled_at timestamptz not null default clock_timestamp()
);

-- Messages that could not be handled, with the reason and where they stood. A
-- topic that is made anew counts its positions from the start, so the event is
-- part of what is unique.
create table dead_letter (
	id         bigint      generated always as identity primary key,
	consumer   text        not null,
	topic      text        not null,
	partition  integer     not null,
	position   bigint      not null,
	event_id   text        not null,
	event_type text        not null,
	attributes bytea       not null,
	data       bytea,
	attempts   integer     not null,
	error      text        not null,
	died_at    timestamptz not null default clock_timestamp(),
	unique (consumer, topic, partition, position, event_id)
);

-- Fails the transaction of a consumer whose positions another one has moved. It
-- stands in the place of the new position when the old one is not what it was.
-- +goose StatementBegin
create function consumer_conflict() returns bigint language plpgsql as $$
begin
	raise exception 'consumer position conflict: another process has moved it' using errcode = 'CM410';
end $$;
-- +goose StatementEnd

-- +goose Up
-- How far each consumer has come in each partition. It moves in the same
-- transaction as the effects, so a message is never handled twice for want of an
-- acknowledgement, and a stale owner's transaction fails on it.
create table consumer_position (
	consumer   text        not null,
	topic      text        not null,
	partition  integer     not null check (partition >= 0),
	epoch      text        not null,
	handled    bigint      not null check (handled >= 0),
	updated_at timestamptz not null default clock_timestamp(),
	primary key (consumer, topic, partition)
) with (fillfactor = 50);

-- Commands that were handled, with what to answer when they come again: the data
-- of the reply, or the rejection. 'deferred' commands keep their attributes, for
-- the reply that comes later. 'revoked' is a tombstone: the compensation came
-- first, or undid a command that had not replied, and the command must have no
-- effect any more.
create table inbox (
	key        uuid        primary key,
	status     text        not null check (status in ('replied', 'rejected', 'deferred', 'revoked')),
	command    bytea       check (command is null or status in ('deferred', 'revoked')),
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

-- Fails the transaction of a consumer whose positions another one has moved.
-- +goose StatementBegin
create function consumer_expect(actual bigint, expected bigint) returns void language plpgsql as $$
begin
	if actual <> expected then
		raise exception 'consumer position conflict: % of % rows', actual, expected using errcode = 'CM410';
	end if;
end $$;
-- +goose StatementEnd

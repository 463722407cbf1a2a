-- +goose Up
-- A dead letter is 'dead' until somebody decides over it; 'redriving' when it was
-- told to be handled again; 'parked' when it has not been tried at all, because an
-- earlier letter of its key holds the key. It is gone when it is handled or
-- discarded; dead_letter_log keeps what became of it.
alter table dead_letter
	add column state       text        not null default 'dead',
	add column reason      text        not null default 'failed', -- malformed, no_handler, terminal or failed
	add column key         text        not null default '',       -- the partition key
	add column correlation text        not null default '',       -- the saga, for commands and replies
	add column parks       boolean     not null default false,    -- later messages of the key wait for it
	add column redrives    integer     not null default 0,        -- how often it was told to be handled again
	add column revision    bigint      not null default 1,
	add column stored_at   timestamptz;                           -- by the broker

-- What a consumer looks for once a second: there is next to nothing in it.
create index dead_letter_due on dead_letter (consumer, id) where state <> 'dead';

-- What holds a key, in the order in which it is released.
create index dead_letter_key on dead_letter (consumer, topic, partition, key, id) where parks;

-- What was done to dead letters, by whom and why, with the event as it was before.
create table dead_letter_log (
	id          bigint      generated always as identity primary key,
	letter      bigint      not null,
	verb        text        not null, -- edit, redrive, discard, handled, died
	done_by     text        not null,
	note        text        not null,
	done_at     timestamptz not null default clock_timestamp(),
	consumer    text        not null,
	topic       text        not null,
	partition   integer     not null,
	position    bigint      not null,
	event_id    text        not null,
	event_type  text        not null,
	attributes  bytea,
	data        bytea
);

create index dead_letter_log_letter on dead_letter_log (letter, id);

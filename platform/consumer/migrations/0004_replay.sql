-- +goose Up
-- A row that an operator has put here to have a message of the topic handled once
-- more is 'replayed', and 'again' when it is to be handled even though the inbox
-- knows it. Its died_at is when that was ordered, until it dies of it.
alter table dead_letter
	add column replayed boolean not null default false,
	add column again    boolean not null default false;

-- How often a message was replayed is counted before it is done once more.
create index dead_letter_log_replay on dead_letter_log (consumer, topic, partition, position) where verb = 'replay';

-- The consumers that run on this database, and how each tells a message that it has
-- handled before: by the inbox ('inbox'), by means of its own ('own'), or not at all
-- ('none'). A replay asks here whether anybody would handle it.
create table consumer_topic (
	consumer text        not null,
	topic    text        not null,
	memory   text        not null,
	seen_at  timestamptz not null default clock_timestamp(),
	primary key (consumer, topic)
);

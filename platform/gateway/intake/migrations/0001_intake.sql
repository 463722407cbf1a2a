-- +goose Up
-- Commands that were taken under a key, so that a repeat is known before the engine
-- has begun the operation. id is that of the operation. The commands themselves are
-- in the outbox, until the broker has them.
create table intake_key (
	id          text        primary key,
	fingerprint text        not null,
	accepted_at timestamptz not null default clock_timestamp()
);

create index intake_key_accepted_at on intake_key (accepted_at);

-- Since when a command has waited for the broker that waited at noted_at or in the day
-- before it.
create table intake_backlog (
	one       boolean     primary key default true check (one),
	oldest_at timestamptz not null,
	noted_at  timestamptz not null
);

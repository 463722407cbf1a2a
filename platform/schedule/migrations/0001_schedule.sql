-- +goose Up
create table schedule (
	id       text        primary key check (id <> ''),
	revision bigint      not null check (revision > 0), -- of what operators state
	turn     bigint      not null check (turn > 0),     -- counts every write; guards the next one
	document json        not null,                      -- what operators state
	state    json        not null,                      -- how far it is
	due_at   timestamptz                                -- null: nothing happens by itself
);

create index schedule_due on schedule (due_at) where due_at is not null;

-- What became of the latest firings. The id is that of the command.
create table schedule_firing (
	id          uuid        primary key,
	schedule_id text        not null references schedule on delete cascade,
	at          timestamptz not null,
	kind        text        not null check (kind in ('scheduled', 'triggered', 'backfilled')),
	outcome     text        not null check (outcome in ('started', 'skipped', 'missed')),
	count       integer     not null check (count > 0),
	decided_at  timestamptz not null
);

create index schedule_firing_recent on schedule_firing (schedule_id, decided_at desc);

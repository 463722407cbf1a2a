-- +goose Up
-- Calls that sagas have asked for. The books of their attempts are in ai_attempt.
create table ai_saga_call (
	id            uuid        primary key, -- that of the call
	deferred_key  uuid        not null,    -- of the reply that is owed
	saga_id       text        not null,
	state         text        not null,    -- reserved, settled, released, uncertain
	request       jsonb       not null,
	holder_id     uuid        not null,    -- what pays: a reservation of the saga, or one of its own
	own_hold      boolean     not null,
	tries         integer     not null default 0,
	due_at        timestamptz, -- when a worker may take it; null: it has ended
	claimed_by    uuid,
	claimed_until timestamptz,
	created_at    timestamptz not null default clock_timestamp(),
	ended_at      timestamptz
) with (fillfactor = 70);
create index ai_saga_call_due on ai_saga_call (due_at) where due_at is not null;
create index ai_saga_call_ended on ai_saga_call (ended_at) where ended_at is not null;

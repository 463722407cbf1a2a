-- +goose Up
-- One short row per saga: what it is found by, and how far its history goes. The
-- history is the saga: see saga_log.
create table saga (
	-- What few transitions change comes first: an update writes what is between the
	-- first and the last byte that it changes.
	id          uuid        primary key,
	created_at  timestamptz not null,
	snapshot    bigint      not null, -- the last entry that stands for all before it
	day         date        not null, -- of created_at in UTC: the partition of its history
	version     integer     not null check (version > 0),
	definition  text        not null check (definition <> ''),
	step        text        not null default '', -- where it failed or is stuck
	code        text        not null default '', -- why
	hash        bytea       not null, -- of the last entry, which covers all before it
	status      text        not null check (status in ('running', 'compensating', 'completed', 'compensated', 'stuck', 'abandoned')),
	waits       text        not null default '', -- steps that an answer is awaited for
	updated_at  timestamptz not null,
	revision    bigint      not null check (revision > 0) -- entries in its history
) with (fillfactor = 50); -- room for HOT updates: no index below changes between two steps

-- A list of all is merged from the six statuses, read backwards: what is appended at
-- the end of a status splits pages less evenly, and so leaves them full.
create index saga_status on saga (status, created_at, id);

-- One row per saga that has not ended. due_at is when to look at it, null when
-- only a message can move it. It may be early, never late: moving it costs more than
-- looking in vain.
create table saga_live (
	saga_id uuid        primary key,
	due_at  timestamptz
) with (fillfactor = 70);
create index saga_live_due on saga_live (due_at) where due_at is not null;

-- What each transition changed, in order and without a gap. A partition holds
-- the whole history of the sagas that began on its day, so it can be dropped once
-- they are no longer kept.
create table saga_log (
	saga_id uuid    not null,
	seq     integer not null,
	day     date    not null,
	entry   bytea   not null
) partition by range (day);
create index saga_log_saga on saga_log (saga_id); -- seq is unique in it by the guard of the saga's revision
create table saga_log_default partition of saga_log default;

-- What a definition wants its sagas to be found by.
create table saga_attribute (
	saga_id uuid not null,
	name    text not null,
	value   text not null,
	primary key (saga_id, name)
);
create index saga_attribute_value on saga_attribute (name, value, saga_id);

-- Who holds a lock and who waits for it, in the order of seq.
create table saga_lock (
	key        text        not null,
	saga_id    uuid        not null,
	step       text        not null,
	seq        bigint      not null generated always as identity,
	slots      integer     not null,
	rate       float8      not null,
	ttl        interval,
	granted_at timestamptz,
	expires_at timestamptz,
	primary key (key, saga_id, step)
);
create index saga_lock_saga on saga_lock (saga_id);

-- How many sagas may begin at once, of definitions with a rate.
create table saga_bucket (
	key       text        primary key,
	rate      float8      not null,
	tokens    float8      not null,
	filled_at timestamptz not null
);

-- The shape of each definition that an engine has run, for those who read sagas
-- without its code.
create table saga_definition (
	name    text    not null,
	version integer not null,
	graph   jsonb   not null,
	seen_at timestamptz not null default clock_timestamp(),
	primary key (name, version)
);

-- Makes the partitions of today and the days to come. It runs with the rights of
-- whoever owns the tables, so that the engine needs none of them.
-- +goose StatementBegin
create function saga_partitions(ahead integer) returns integer
language plpgsql security definer set search_path from current as $$
declare
	first date := (clock_timestamp() at time zone 'UTC')::date;
	made  integer := 0;
	name  text;
begin
	if not pg_try_advisory_xact_lock(hashtext('saga_partitions')) then
		return 0; -- another engine is at it
	end if;
	for d in 0 .. ahead loop
		name := 'saga_log_' || to_char(first + d, 'YYYYMMDD');
		if to_regclass(name) is null and not exists (select from saga_log_default where day = first + d) then
			execute format('create table %I partition of saga_log for values from (%L) to (%L)', name, first + d, first + d + 1);
			made := made + 1;
		end if;
	end loop;
	return made;
end $$;
-- +goose StatementEnd

-- Drops the partitions of days of which no saga is left, but for the last days,
-- and returns their names.
-- +goose StatementBegin
create function saga_drop_partitions() returns setof text
language plpgsql security definer set search_path from current as $$
declare
	name text;
	d    date;
begin
	if not pg_try_advisory_xact_lock(hashtext('saga_partitions')) then
		return;
	end if;
	for name in
		select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
		where i.inhparent = 'saga_log'::regclass and c.relname ~ '^saga_log_\d{8}$' order by 1
	loop
		d := to_date(right(name, 8), 'YYYYMMDD');
		if d < (clock_timestamp() at time zone 'UTC')::date - 1 and not exists (select from saga where day = d) then
			execute format('drop table %I', name);
			return next name;
		end if;
	end loop;
end $$;
-- +goose StatementEnd

-- Fails the transaction of an engine whose sagas were changed by another.
-- +goose StatementBegin
create function saga_expect(actual bigint, expected bigint) returns void language plpgsql as $$
begin
	if actual <> expected then
		raise exception 'saga revision conflict: % of % rows' , actual, expected using errcode = 'CM409';
	end if;
end $$;
-- +goose StatementEnd

-- +goose Up
-- The inbox in windows of time, so that old entries go by dropping a table and not
-- row by row. New entries go into the window that the column's default names. To
-- open another one takes the table for itself, so it waits for every transaction
-- that has looked a key up, and every later one sees what those have stored:
-- therefore a key needs to be unique within its window only, whatever the clocks say.
create table inbox_window (
	generation integer     primary key,
	opened_at  timestamptz not null default clock_timestamp(),
	closed_at  timestamptz -- no entry is younger; null: the open one
);
insert into inbox_window (generation) values (1);

alter table inbox rename to inbox_1;
alter table inbox_1 rename constraint inbox_pkey to inbox_1_pkey;
alter table inbox_1 drop column handled_at, add column generation integer not null default 1;
create table inbox (like inbox_1 including defaults) partition by list (generation);
alter table inbox attach partition inbox_1 for values in (1);

-- Closes the open window when it is older than that, and opens the next. It runs
-- with the rights of whoever owns the tables, so that services need none of them.
-- +goose StatementBegin
create function inbox_open(after interval) returns boolean
language plpgsql security definer set search_path from current set lock_timeout = '2s' as $$
declare
	last integer;
begin
	if not pg_try_advisory_xact_lock(hashtext('inbox_window')) then
		return false; -- another process is at it
	end if;
	select generation into last from inbox_window where closed_at is null and opened_at < clock_timestamp() - after;
	if not found then
		return false;
	end if;
	lock table inbox in access exclusive mode;
	execute format('create table %I partition of inbox (primary key (key)) for values in (%s)', 'inbox_' || last + 1, last + 1);
	execute format('alter table only inbox alter column generation set default %s', last + 1);
	update inbox_window set closed_at = clock_timestamp() where generation = last;
	insert into inbox_window (generation) values (last + 1);
	return true;
end $$;
-- +goose StatementEnd

-- Drops the oldest window that was closed longer ago than that, and returns its
-- generation; null when there is none. Commands that still wait for their reply move to the open window.
-- +goose StatementBegin
create function inbox_drop(after interval) returns integer
language plpgsql security definer set search_path from current set lock_timeout = '2s' as $$
declare
	oldest integer;
begin
	if not pg_try_advisory_xact_lock(hashtext('inbox_window')) then
		return null;
	end if;
	select generation into oldest from inbox_window where closed_at < clock_timestamp() - after order by generation limit 1;
	if not found then
		return null;
	end if;
	update inbox set generation = (select generation from inbox_window where closed_at is null)
	where generation = oldest and status = 'deferred';
	execute format('drop table %I', 'inbox_' || oldest);
	delete from inbox_window where generation = oldest;
	return oldest;
end $$;
-- +goose StatementEnd

-- +goose Up
-- What somebody may use in each period: money in billionths of a dollar, tokens or
-- requests. Empty columns stand for anybody.
create table ai_budget (
	id           text        primary key,
	tenant       text        not null,
	app          text        not null,
	key          text        not null,
	unit         text        not null check (unit in ('usd', 'tokens', 'requests')),
	period       text        not null check (period in ('minute', 'hour', 'day', 'month')),
	limit_amount bigint      not null check (limit_amount >= 0),
	on_uncertain text        not null check (on_uncertain in ('hold', 'charge', 'release')),
	warn_at      smallint[]  not null, -- percent of the limit
	revision     bigint      not null default 1,
	created_at   timestamptz not null default clock_timestamp(),
	updated_at   timestamptz not null default clock_timestamp(),
	unique (tenant, app, key, unit, period)
);

-- One row that changes with every change of a budget, so that the nodes need to look
-- at one row only.
create table ai_budget_revision (revision bigint not null);
insert into ai_budget_revision values (1);

-- What was used of a budget in one period, and what is spoken for:
-- reserved = the sum of its leases + what its open attempts hold.
create table ai_period (
	budget_id    text        not null,
	starts_at    timestamptz not null,
	ends_at      timestamptz not null,
	spent        bigint      not null default 0,
	reserved     bigint      not null default 0,
	exhausted_at timestamptz, -- the first refusal
	primary key (budget_id, starts_at)
) with (fillfactor = 50);
create index ai_period_ended on ai_period (ends_at);

-- Who holds leases: a process, or a saga that has money put by.
create table ai_holder (
	id         uuid        primary key,
	kind       text        not null check (kind in ('node', 'saga')),
	name       text        not null,
	tenant     text        not null default '',
	app        text        not null default '',
	key        text        not null default '',
	expires_at timestamptz not null
);
create index ai_holder_expired on ai_holder (expires_at);

create table ai_lease (
	holder_id uuid        not null,
	budget_id text        not null,
	starts_at timestamptz not null, -- of the period
	amount    bigint      not null,
	primary key (holder_id, budget_id, starts_at)
) with (fillfactor = 50);

-- Every attempt of every call, by the month in its id, which is a UUIDv7.
create table ai_attempt (
	call_id       uuid        not null,
	attempt       smallint    not null,
	state         text        not null, -- dispatched, uncertain, settled, released
	holder_id     uuid        not null,
	tenant        text        not null,
	app           text        not null,
	key           text        not null,
	operation     text        not null,
	requested     text        not null,
	provider      text        not null,
	model         text        not null,
	saga_id       text        not null,
	held          jsonb       not null,
	input         bigint      not null default 0,
	cached_input  bigint      not null default 0,
	cache_write   bigint      not null default 0,
	output        bigint      not null default 0,
	reasoning     bigint      not null default 0,
	usage_source  text        not null default '',
	cost          bigint, -- null: it has not ended, or has no price
	most          bigint      not null, -- what it costs at most
	price         text        not null,
	price_version text        not null,
	reason        text        not null default '',
	dispatched_at timestamptz not null default clock_timestamp(),
	ended_at      timestamptz,
	primary key (call_id, attempt)
) partition by range (call_id);
create table ai_attempt_default partition of ai_attempt default;
create index ai_attempt_open on ai_attempt (holder_id) where state = 'dispatched';
create index ai_attempt_uncertain on ai_attempt (call_id) where state = 'uncertain';

-- The books: what was charged, once for each attempt and kind. Rows are never changed.
create table ai_ledger (
	call_id       uuid        not null,
	attempt       smallint    not null,
	kind          text        not null check (kind in ('charge', 'adjust', 'refund')),
	amount        bigint      not null,
	tenant        text        not null,
	app           text        not null,
	key           text        not null,
	provider      text        not null,
	model         text        not null,
	usage_source  text        not null,
	price         text        not null,
	price_version text        not null,
	at            timestamptz not null default clock_timestamp(),
	primary key (call_id, attempt, kind)
) partition by range (call_id);
create table ai_ledger_default partition of ai_ledger default;

-- Sums by the hour, so that reports never read attempts.
create table ai_usage_hourly (
	hour         timestamptz not null,
	tenant       text        not null,
	app          text        not null,
	key          text        not null,
	provider     text        not null,
	model        text        not null,
	operation    text        not null,
	settled      bigint      not null,
	released     bigint      not null,
	uncertain    bigint      not null,
	unpriced     bigint      not null,
	input        bigint      not null,
	cached_input bigint      not null,
	cache_write  bigint      not null,
	output       bigint      not null,
	reasoning    bigint      not null,
	cost         bigint      not null,
	primary key (hour, tenant, app, key, provider, model, operation)
) partition by range (hour);
create table ai_usage_hourly_default partition of ai_usage_hourly default;

-- Grants leases of budgets in their current periods to a holder: of each what is
-- needed and, where there is plenty, a share of the rest; of all or of none. Budgets
-- come in the order of their ids, which is the order in which rows are locked. A row
-- that is refused names the budget that lacks. No row at all: there is no such holder.
-- +goose StatementBegin
create function ai_grant(holder uuid, budgets text[], needs bigint[], share bigint)
returns table (budget_id text, starts_at timestamptz, ends_at timestamptz, now timestamptz,
	granted bigint, refused boolean, first_refusal boolean, limit_amount bigint, spent bigint, reserved bigint)
language plpgsql as $$
#variable_conflict use_column
declare
	n      integer := cardinality(budgets);
	p      record;
	b      record;
	extra  bigint;
	begins timestamptz[];
begin
	perform from ai_holder where id = holder and expires_at > clock_timestamp() for share;
	if not found then
		return;
	end if;
	now := clock_timestamp();
	for i in 1 .. n loop
		select * into b from ai_budget where id = budgets[i];
		if not found then -- deleted meanwhile: it limits nothing any more
			begins[i] := null;
			continue;
		end if;
		begins[i] := date_trunc(b.period, now, 'UTC');
		insert into ai_period (budget_id, starts_at, ends_at)
			select budgets[i], begins[i], date_trunc(b.period, begins[i] at time zone 'UTC' + ('1 ' || b.period)::interval) at time zone 'UTC'
			where not exists (select from ai_period where budget_id = budgets[i] and starts_at = begins[i])
			on conflict do nothing;
		select * into p from ai_period where budget_id = budgets[i] and starts_at = begins[i] for update;
		if needs[i] > b.limit_amount - p.spent - p.reserved then -- written so that no sum can be too large
			update ai_period set exhausted_at = now
				where budget_id = budgets[i] and starts_at = begins[i] and exhausted_at is null;
			return query select budgets[i], p.starts_at, p.ends_at, now, 0::bigint, true, p.exhausted_at is null, b.limit_amount, p.spent, p.reserved;
			return;
		end if;
	end loop;
	for i in 1 .. n loop
		if begins[i] is null then
			return query select budgets[i], now, now + interval '1 second', now, needs[i], false, false, 0::bigint, 0::bigint, 0::bigint;
			continue;
		end if;
		select limit_amount into b from ai_budget where id = budgets[i];
		select * into p from ai_period where budget_id = budgets[i] and starts_at = begins[i];
		extra := greatest((b.limit_amount - p.spent - p.reserved - needs[i]) / greatest(share, 1), 0);
		if share = 0 then
			extra := 0;
		end if;
		update ai_period set reserved = reserved + needs[i] + extra where budget_id = budgets[i] and starts_at = begins[i];
		insert into ai_lease as l (holder_id, budget_id, starts_at, amount)
			values (holder, budgets[i], begins[i], needs[i] + extra)
			on conflict (holder_id, budget_id, starts_at) do update set amount = l.amount + excluded.amount;
		return query select budgets[i], p.starts_at, p.ends_at, now, needs[i] + extra, false, false, b.limit_amount, p.spent, p.reserved;
	end loop;
end $$;
-- +goose StatementEnd

-- The least UUIDv7 of a time.
-- +goose StatementBegin
create function ai_uuid_at(at timestamptz) returns uuid language sql immutable as $$
	select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
-- +goose StatementEnd

-- Makes the partitions of this month and the months to come. It runs with the rights
-- of whoever owns the tables, so that nobody else needs them.
-- +goose StatementBegin
create function ai_partitions(ahead integer) returns integer
language plpgsql security definer set search_path from current set lock_timeout = '2s' as $$
declare
	month timestamptz := date_trunc('month', clock_timestamp(), 'UTC');
	after timestamptz;
	made  integer := 0;
	label text;
begin
	if not pg_try_advisory_xact_lock(hashtext('ai_partitions')) then
		return 0; -- another process is at it
	end if;
	for i in 0 .. ahead loop
		after := (month at time zone 'UTC' + interval '1 month') at time zone 'UTC';
		label := to_char(month at time zone 'UTC', 'YYYYMM');
		if to_regclass('ai_attempt_' || label) is null
			and not exists (select from ai_attempt_default where call_id >= ai_uuid_at(month) and call_id < ai_uuid_at(after))
			and not exists (select from ai_ledger_default where call_id >= ai_uuid_at(month) and call_id < ai_uuid_at(after))
			and not exists (select from ai_usage_hourly_default where hour >= month and hour < after) then
			execute format('create table %I partition of ai_attempt for values from (%L) to (%L) with (fillfactor = 70)', 'ai_attempt_' || label, ai_uuid_at(month), ai_uuid_at(after));
			execute format('create table %I partition of ai_ledger for values from (%L) to (%L)', 'ai_ledger_' || label, ai_uuid_at(month), ai_uuid_at(after));
			execute format('create table %I partition of ai_usage_hourly for values from (%L) to (%L) with (fillfactor = 70)', 'ai_usage_hourly_' || label, month, after);
			made := made + 1;
		end if;
		month := after;
	end loop;
	return made;
end $$;
-- +goose StatementEnd
select ai_partitions(2);

-- Drops the partitions of one table that ended longer ago than that, and returns their
-- names. A month of attempts of which one is uncertain stays.
-- +goose StatementBegin
create function ai_drop_partitions(parent text, keep interval) returns setof text
language plpgsql security definer set search_path from current set lock_timeout = '2s' as $$
declare
	name  text;
	ended timestamptz;
	open  boolean;
begin
	if parent not in ('ai_attempt', 'ai_ledger', 'ai_usage_hourly') then
		raise exception 'ai_drop_partitions: % is no table of the books', parent;
	end if;
	if not pg_try_advisory_xact_lock(hashtext('ai_partitions')) then
		return;
	end if;
	for name in
		select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
		where i.inhparent = parent::regclass and c.relname ~ '_\d{6}$' order by 1
	loop
		ended := (to_date(right(name, 6), 'YYYYMM') + interval '1 month') at time zone 'UTC';
		open := false;
		if parent = 'ai_attempt' then
			execute format('select exists (select from %I where state in (''dispatched'', ''uncertain''))', name) into open;
		end if;
		if ended < clock_timestamp() - keep and not open then
			execute format('drop table %I', name);
			return next name;
		end if;
	end loop;
end $$;
-- +goose StatementEnd

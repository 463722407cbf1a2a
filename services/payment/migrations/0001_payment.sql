-- +goose Up
-- A payment whose settle_at is set waits for the processor's answer, which is
-- due then, and owes the reply to the command that deferred_key stands for.
create table payment (
	order_id         uuid        primary key,
	amount           bigint      not null check (amount >= 0), -- in minor units
	currency         text        not null check (currency ~ '^[A-Z]{3}$'),
	token            text        not null,
	status           text        not null check (status in ('authorizing', 'authorized', 'captured', 'voided', 'declined')),
	authorization_id uuid,
	deferred_key     uuid,
	settle_at        timestamptz,
	created_at       timestamptz not null default clock_timestamp(),
	updated_at       timestamptz not null default clock_timestamp(),
	check (status not in ('authorized', 'captured') or authorization_id is not null),
	check (settle_at is null or (status = 'authorizing' and deferred_key is not null))
) with (fillfactor = 70);

create index payment_due on payment (settle_at) where settle_at is not null;

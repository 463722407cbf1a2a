-- +goose Up
-- The table is not called order because SQL keeps that word for itself.
create table orders (
	id         uuid        primary key,
	customer   text        not null check (customer <> ''),
	currency   text        not null check (currency ~ '^[A-Z]{3}$'),
	items      jsonb       not null,
	status     text        not null default 'pending' check (status in ('pending', 'confirmed', 'cancelled')),
	total      bigint      check (total >= 0), -- in minor units; known once confirmed
	reason     text,                            -- why it was cancelled
	created_at timestamptz not null default clock_timestamp(),
	updated_at timestamptz not null default clock_timestamp(),
	check (status <> 'confirmed' or total is not null)
) with (fillfactor = 70);

-- +goose Up
-- reserved is the sum of the held lines of reservation. Only these two columns
-- change, no index is on them, and pages keep room: updates stay in their page.
create table stock (
	sku      text   primary key,
	on_hand  bigint not null check (on_hand >= 0),
	reserved bigint not null default 0 check (reserved >= 0),
	price    bigint not null check (price >= 0), -- in minor units
	currency text   not null default 'EUR' check (currency ~ '^[A-Z]{3}$'),
	check (reserved <= on_hand)
) with (fillfactor = 50);

-- One row per sku of an order.
create table reservation (
	order_id   uuid        not null,
	sku        text        not null references stock,
	quantity   bigint      not null check (quantity > 0),
	unit_price bigint      not null check (unit_price >= 0),
	status     text        not null default 'held' check (status in ('held', 'released', 'committed')),
	created_at timestamptz not null default clock_timestamp(),
	updated_at timestamptz not null default clock_timestamp(),
	primary key (order_id, sku)
) with (fillfactor = 70);

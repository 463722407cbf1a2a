-- +goose Up
alter table stock add column returnable boolean not null default true; -- whether it is taken back once sold

-- Goods that come back, one row per sku of a return. They are held apart until the
-- return is certain, and on the shelf again only when shelved.
create table restock (
	return_id  uuid        not null,
	sku        text        not null references stock,
	order_id   uuid        not null,
	quantity   bigint      not null check (quantity > 0),
	status     text        not null default 'held' check (status in ('held', 'withdrawn', 'shelved')),
	created_at timestamptz not null default clock_timestamp(),
	updated_at timestamptz not null default clock_timestamp(),
	primary key (return_id, sku)
) with (fillfactor = 70);

create index restock_of on restock (order_id, sku);

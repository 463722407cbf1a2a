-- +goose Up
-- An order of which something came back is partially returned, and returned when
-- nothing is left with the customer.
alter table orders
	drop constraint orders_status_check,
	add constraint orders_status_check
		check (status in ('pending', 'confirmed', 'cancelled', 'partially_returned', 'returned')),
	add constraint orders_returned_total_check
		check (status not in ('partially_returned', 'returned') or total is not null);

create table order_return (
	id         uuid        primary key,
	order_id   uuid        not null references orders,
	reason     text        not null,
	status     text        not null default 'open' check (status in ('open', 'completed', 'cancelled')),
	refund     bigint      check (refund >= 0), -- in minor units; known once completed
	created_at timestamptz not null default clock_timestamp(),
	updated_at timestamptz not null default clock_timestamp(),
	check (status <> 'completed' or refund is not null)
) with (fillfactor = 70);

create index order_return_of on order_return (order_id);

create table order_return_line (
	return_id uuid   not null references order_return,
	sku       text   not null,
	quantity  bigint not null check (quantity > 0),
	primary key (return_id, sku)
);

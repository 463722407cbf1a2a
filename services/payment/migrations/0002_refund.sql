-- +goose Up
-- What was paid back of a payment is the sum of its refunds, and never more than
-- was taken.
alter table payment
	add column refunded bigint not null default 0,
	add constraint payment_refunded_check check (refunded between 0 and amount),
	add constraint payment_refunded_status_check check (refunded = 0 or status = 'captured');

-- One row per refund, so that none is paid twice.
create table refund (
	id         uuid        primary key,
	order_id   uuid        not null references payment,
	amount     bigint      not null check (amount >= 0), -- in minor units
	created_at timestamptz not null default clock_timestamp()
);

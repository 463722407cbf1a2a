-- +goose Up
-- The read model: what each customer has ordered, made from the order facts.
create table customer_summary (
	customer   text        primary key,
	pending    bigint      not null default 0, -- below zero when the oldest facts are gone from the topic
	confirmed  bigint      not null default 0 check (confirmed >= 0),
	cancelled  bigint      not null default 0 check (cancelled >= 0),
	updated_at timestamptz not null default clock_timestamp()
) with (fillfactor = 70);

create table customer_spending (
	customer text   not null,
	currency text   not null,
	spent    bigint not null check (spent >= 0), -- in minor units
	primary key (customer, currency)
) with (fillfactor = 70);

-- Facts that are in the read model already: the broker delivers at least once.
-- They are forgotten when it has long dropped them.
create table customer_summary_seen (
	event_id text        primary key,
	seen_at  timestamptz not null default clock_timestamp()
);

create index customer_summary_seen_old on customer_summary_seen (seen_at);

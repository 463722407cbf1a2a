-- +goose Up
insert into stock (sku, on_hand, price, returnable) values
	('GIFT-001', 1000, 2500, false)
on conflict (sku) do nothing;

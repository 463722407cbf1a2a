-- +goose Up
insert into stock (sku, on_hand, price) values
	('TEA-001', 100000, 450),
	('MUG-001', 100000, 1200),
	('RARE-001', 5, 9900)
on conflict (sku) do nothing;

-- +goose Up
-- What a subscription was created under, when its subscriber said an Idempotency-Key:
-- digests of whose key it is, and of the body.
alter table webhook_subscription
	add column request_key  bytea,
	add column request_body bytea;

create unique index webhook_subscription_request_key on webhook_subscription (request_key) where request_key is not null;

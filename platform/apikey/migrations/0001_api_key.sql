-- +goose Up
-- Keys that clients send. hash is the SHA-256 of the whole key, which is nowhere else.
-- A key is in force until expires_at or revoked_at. A client has at most two that are;
-- the store sees to that under an advisory lock of the client.
create table api_key (
	id           text        primary key, -- is in the key, and no secret
	hash         bytea       not null unique,
	tenant       text        not null,
	client       text        not null,
	scopes       text[]      not null,
	note         text        not null,
	created_at   timestamptz not null default clock_timestamp(),
	created_by   text        not null,
	expires_at   timestamptz,
	replaced_by  text,
	revoked_at   timestamptz,
	revoked_by   text,
	reason       text, -- why it was revoked
	last_used_at timestamptz -- within a minute
);

create index api_key_client on api_key (tenant, client, created_at);

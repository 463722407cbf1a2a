-- +goose Up
-- Versions of prompts. Rows are never changed: what was published stays what it is.
create table ai_prompt_version (
	tenant       text        not null, -- empty: for everybody
	slug         text        not null,
	version      integer     not null,
	document     jsonb       not null,
	digest       text        not null,
	published_at timestamptz not null default clock_timestamp(),
	primary key (tenant, slug, version)
);

-- What latest and stable stand for.
create table ai_prompt_channel (
	tenant   text        not null,
	slug     text        not null,
	channel  text        not null check (channel in ('latest', 'stable')),
	version  integer     not null,
	moved_at timestamptz not null default clock_timestamp(),
	primary key (tenant, slug, channel),
	foreign key (tenant, slug, version) references ai_prompt_version (tenant, slug, version)
);

-- +goose StatementBegin
create function ai_prompt_immutable() returns trigger language plpgsql as $$
begin
	raise exception 'version % of prompt % is published and cannot be changed', old.version, old.slug;
end $$;
-- +goose StatementEnd
create trigger ai_prompt_immutable before update on ai_prompt_version for each row execute function ai_prompt_immutable();

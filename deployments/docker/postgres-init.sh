#!/bin/sh
# Makes a role and a database of the same name for each part of Countermand that
# keeps state; that of the gateway may also read the engine's. The image runs it
# once, on an empty data folder. A role owns its database and may not connect to
# the others.
set -eu

make() {
	psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres -v name="$1" -v password="$2" <<'SQL'
create role :"name" login password :'password';
create database :"name" owner :"name";
revoke all on database :"name" from public;
SQL
}

make engine "$ENGINE_PASSWORD"
make shop_order "$SHOP_ORDER_PASSWORD"
make shop_payment "$SHOP_PAYMENT_PASSWORD"
make shop_inventory "$SHOP_INVENTORY_PASSWORD"

make gateway "$GATEWAY_PASSWORD"
make ai "$AI_PASSWORD"

psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname engine <<'SQL'
grant connect on database engine to gateway;
grant usage on schema public to gateway;
alter default privileges for role engine in schema public grant select on tables to gateway;
SQL

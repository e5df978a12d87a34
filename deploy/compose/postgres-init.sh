#!/bin/sh
# Runs once, when the postgres container makes its data folder: the narrow table in database `source`, database
# `target`, and the roles of deploy/roles.sql with the passwords of ./secrets. libpq's variables say where.
set -eu
secrets=${SECRETS:-/run/secrets}
sql=${SQL:-/opt/narrow-to-wide}

run() { # run DATABASE [psql's arguments]; SQL on stdin unless --file says otherwise
  database=$1
  shift
  psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$database" "$@"
}

give() { # give ROLE FILE: its password; the text of a file, not of an argument that a process list would show
  run source --set=role="$1" --set=file="$secrets/$2" <<'SQL'
\set password `cat :'file'`
ALTER ROLE :"role" PASSWORD :'password';
SQL
}

# The collector owns the narrow table: it stands for whatever writes samples.
run source --file="$sql/narrow.sql"
run source <<'SQL'
CREATE ROLE collector LOGIN;
GRANT USAGE ON SCHEMA tenant TO collector;
ALTER TABLE tenant.tbl_data_timeseries OWNER TO collector;
CREATE DATABASE target;
SQL
run source --set=side=source --file="$sql/roles.sql"
run target --set=side=target --file="$sql/roles.sql"

give collector collector_password
give narrow_debezium debezium_password
give narrow_history history_password
give wide_writer writer_password
give wide_ddl ddl_password

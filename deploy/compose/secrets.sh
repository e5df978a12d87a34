#!/bin/sh
# Makes the secrets of docker-compose.yml: random passwords, and the connection strings that hold them.
#
#   deploy/compose/secrets.sh [folder]        # default: ./secrets
#
# Files that are there stay as they are, so it may be run again. The folder is yours alone (0700); the files in it are
# readable for all (0644), because each container mounts single files and reads them as a user of its own.
#
# Your own servers: write their connection strings into source_dsn, history_dsn, target_dsn and target_ddl_dsn, and the
# connector's password into connect_source.properties.
set -eu
folder=${1:-secrets}
mkdir -p "$folder"
chmod 700 "$folder"
umask 022

put() { # put NAME TEXT
  [ -e "$folder/$1" ] || printf '%s\n' "$2" > "$folder/$1"
}

password() { # password NAME: made once, 32 hexadecimal digits, so that no connection string needs escaping
  put "$1" "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
  cat "$folder/$1"
}

password postgres_password > /dev/null
password grafana_password > /dev/null
collector=$(password collector_password)
debezium=$(password debezium_password)
history=$(password history_password)
writer=$(password writer_password)
ddl=$(password ddl_password)

put collector_dsn "postgresql://collector:$collector@postgres:5432/source"
put source_dsn "postgresql://narrow_debezium:$debezium@postgres:5432/source"
put history_dsn "postgresql://narrow_history:$history@postgres:5432/source"
put target_dsn "postgresql://wide_writer:$writer@postgres:5432/target"
put target_ddl_dsn "postgresql://wide_ddl:$ddl@postgres:5432/target"
put connect_source.properties "password=$debezium"

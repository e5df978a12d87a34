-- The four roles of narrow-to-wide, each with no more than its work needs. For review, then for psql:
--
--   psql -v side=source -f deploy/roles.sql "postgresql://dba@source/ships"
--   psql -v side=target -f deploy/roles.sql "postgresql://dba@target/wide"
--
-- By a superuser, or by the owner of the narrow table with CREATEROLE, REPLICATION and CREATE on the database.
-- With one database for both sides, run it twice. Run again, it changes nothing but what is missing.
-- No password passes through here: afterwards `\password narrow_debezium`, and so on for each role.
-- Names are variables: psql -v writer=my_writer …
\set ON_ERROR_STOP on
\if :{?side} \else
  \warn 'say which side: -v side=source or -v side=target'
  DO $$ BEGIN RAISE 'the variable side is not set'; END $$;
\endif
\if :{?narrow_schema}    \else \set narrow_schema tenant \endif
\if :{?narrow_table}     \else \set narrow_table tbl_data_timeseries \endif
\if :{?heartbeat_schema} \else \set heartbeat_schema cdc \endif
\if :{?heartbeat_table}  \else \set heartbeat_table heartbeat \endif
\if :{?publication}      \else \set publication narrow_to_wide \endif
\if :{?wide_schema}      \else \set wide_schema tenant \endif
\if :{?control_schema}   \else \set control_schema cdc \endif
\if :{?debezium}         \else \set debezium narrow_debezium \endif
\if :{?history}          \else \set history narrow_history \endif
\if :{?writer}           \else \set writer wide_writer \endif
\if :{?ddl}              \else \set ddl wide_ddl \endif
\if :{?stats}            \else \set stats yes \endif

SELECT :'side' = 'source' AS at_source, :'side' = 'target' AS at_target, current_database() AS database \gset

BEGIN;
-- CREATE … IF NOT EXISTS would ask for rights that the second run need not have.
\if :at_source
-- Debezium: reads the slot, the narrow table, and moves the heartbeat. `cdc-consumer` uses it at the source, too:
-- `init` creates the slot, `schema apply` looks at samples.
SELECT format('CREATE ROLE %I LOGIN REPLICATION', :'debezium')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'debezium') \gexec
-- `backfill` at the source, `verify` included: reads, nothing else.
SELECT format('CREATE ROLE %I LOGIN', :'history')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'history') \gexec
GRANT CONNECT ON DATABASE :"database" TO :"debezium", :"history";
GRANT USAGE ON SCHEMA :"narrow_schema" TO :"debezium", :"history";
GRANT SELECT ON :"narrow_schema".:"narrow_table" TO :"debezium", :"history";

-- Whether sessions of others work or wait is shown to this role only: `backfill` slows down for them, and `init` names
-- what holds it up. It shows their statements, too; with -v stats=no both do without.
SELECT rolsuper OR pg_has_role(current_user, 'pg_read_all_stats', 'MEMBER WITH ADMIN OPTION')
       OR rolcreaterole AND current_setting('server_version_num')::int < 160000 AS may_grant_stats
FROM pg_roles WHERE rolname = current_user \gset
\if :stats
  \if :may_grant_stats
    GRANT pg_read_all_stats TO :"debezium", :"history";
  \else
    \warn 'pg_read_all_stats was not granted: let a superuser do it, or backfill sees only who waits for locks'
  \endif
\endif

-- What else `init` would make, and would have to own the narrow table for.
SELECT format('CREATE SCHEMA %I', :'heartbeat_schema')
WHERE NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = :'heartbeat_schema') \gexec
SELECT format('CREATE TABLE %I.%I (id int PRIMARY KEY, at timestamptz NOT NULL)', :'heartbeat_schema', :'heartbeat_table')
WHERE to_regclass(format('%I.%I', :'heartbeat_schema', :'heartbeat_table')) IS NULL \gexec
GRANT USAGE ON SCHEMA :"heartbeat_schema" TO :"debezium", :"history";
GRANT SELECT, INSERT, UPDATE ON :"heartbeat_schema".:"heartbeat_table" TO :"debezium";
GRANT SELECT ON :"heartbeat_schema".:"heartbeat_table" TO :"history";
SELECT format('CREATE PUBLICATION %I FOR TABLE %I.%I, %I.%I'
              ' WITH (publish = ''insert, update, delete, truncate'', publish_via_partition_root = true)',
              :'publication', :'narrow_schema', :'narrow_table', :'heartbeat_schema', :'heartbeat_table')
WHERE NOT EXISTS (SELECT FROM pg_publication WHERE pubname = :'publication') \gexec
\elif :at_target
-- Owns the wide and the control tables: `schema apply`, migrations, columns and tables of newcomers, and the indexes
-- of `backfill run --defer-indexes` and `--brin`.
SELECT format('CREATE ROLE %I LOGIN', :'ddl')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'ddl') \gexec
-- Both programs at the target: rows, and temporary tables to merge from. One role for both, since each must be
-- able to end the other's stuck session.
SELECT format('CREATE ROLE %I LOGIN', :'writer')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'writer') \gexec
GRANT CONNECT ON DATABASE :"database" TO :"ddl", :"writer";
GRANT TEMPORARY ON DATABASE :"database" TO :"ddl", :"writer";
SELECT format('CREATE SCHEMA %I', name)
FROM (VALUES (:'wide_schema'), (:'control_schema')) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = name) GROUP BY name \gexec
GRANT USAGE, CREATE ON SCHEMA :"wide_schema", :"control_schema" TO :"ddl";
GRANT USAGE ON SCHEMA :"wide_schema", :"control_schema" TO :"writer";

-- Tables to come, and those that are there: only the ones that the DDL role owns, for the narrow table may live
-- beside them. Default privileges are the DDL role's own to change.
SELECT pg_has_role(current_user, :'ddl', 'MEMBER') AS is_member \gset
\if :is_member \else
  GRANT :"ddl" TO CURRENT_USER;
\endif
ALTER DEFAULT PRIVILEGES FOR ROLE :"ddl" IN SCHEMA :"wide_schema"
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"writer";
ALTER DEFAULT PRIVILEGES FOR ROLE :"ddl" IN SCHEMA :"control_schema"
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"writer";
SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', c.oid::regclass, :'writer')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN (:'wide_schema', :'control_schema') AND c.relkind IN ('r', 'p')
  AND c.relowner = (SELECT oid FROM pg_roles WHERE rolname = :'ddl') \gexec
\if :is_member \else
  REVOKE :"ddl" FROM CURRENT_USER;
\endif
\else
DO $$ BEGIN RAISE 'side is source or target'; END $$;
\endif
COMMIT;

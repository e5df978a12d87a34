-- server --
SELECT current_setting('wal_level') AS wal_level,
       current_setting('server_version_num')::int AS version,
       pg_is_in_recovery() AS standby,
       current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots) AS free_slots,
       current_setting('max_wal_senders')::int
           - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender') AS free_senders,
       (SELECT setting::bigint * 1024 * 1024 FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS wal_budget

-- role --
SELECT rolname,
       rolsuper OR rolreplication
           OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname IN ('rds_replication', 'rds_superuser', 'azure_pg_admin')
                      AND pg_has_role(r.rolname, g.oid, 'member')) AS may_replicate,
       rolsuper OR has_database_privilege(current_database(), 'CREATE') AS may_create,
       rolsuper OR pg_has_role(r.rolname, 'pg_read_all_stats', 'usage') AS sees_sessions
FROM pg_roles r
WHERE rolname = current_user

-- table --
SELECT c.oid, c.relkind, pg_has_role(c.relowner, 'usage') AS owned, has_table_privilege(c.oid, 'SELECT') AS readable,
       ARRAY(SELECT DISTINCT part.relreplident::text
             FROM pg_class part
             WHERE part.relkind = 'r'
               AND (part.oid = c.oid OR part.oid IN (SELECT relid FROM pg_partition_tree(c.oid)))
            ) AS replica_identities,
       ARRAY(SELECT a.attname::text
             FROM pg_index i
             CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS key (attnum, position)
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = key.attnum
             WHERE i.indrelid = c.oid AND i.indisprimary
             ORDER BY key.position
            ) AS primary_key,
       (SELECT jsonb_object_agg(a.attname, format_type(a.atttypid, NULL))
        FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
       ) AS column_types
FROM pg_class c
WHERE c.oid = to_regclass(%(table)s) AND c.relkind IN ('r', 'p')

-- publication --
SELECT p.puballtables, p.pubviaroot, p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AS publishes_all,
       ARRAY(SELECT format('%%s.%%s', t.schemaname, t.tablename)
             FROM pg_publication_tables t WHERE t.pubname = p.pubname) AS tables,
       EXISTS (SELECT FROM pg_publication_rel r
               WHERE r.prpubid = p.oid AND (to_jsonb(r) ->> 'prqual') IS NOT NULL) AS filtered
FROM pg_publication p
WHERE p.pubname = %(publication)s

-- publishers --
SELECT p.pubname::text
FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
WHERE r.prrelid = to_regclass(%(table)s)
ORDER BY p.pubname

-- slot --
SELECT to_jsonb(s) AS facts,
       (pg_current_wal_lsn() - s.restart_lsn)::bigint AS retained_bytes
FROM pg_replication_slots s
WHERE s.slot_name = %(slot)s

-- create_slot --
SELECT lsn::text FROM pg_create_logical_replication_slot(%s, 'pgoutput')

-- create_failover_slot --
SELECT lsn::text FROM pg_create_logical_replication_slot(%s, 'pgoutput', false, false, true)

-- drop_slot --
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %(slot)s

-- blockers --
SELECT format('pid %%s (%%s, %%s, %%s, open for %%s)', pid, usename, coalesce(nullif(application_name, ''), 'no name'),
              state, date_trunc('second', clock_timestamp() - xact_start))
FROM (
    SELECT * FROM pg_stat_activity
    WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    ORDER BY xact_start
    LIMIT 5
) AS sessions
UNION ALL
SELECT format('prepared transaction %%L (%%s, %%s, since %%s)', gid, owner, database, date_trunc('second', prepared))
FROM (SELECT * FROM pg_prepared_xacts ORDER BY prepared LIMIT 5) AS prepared

-- heartbeat_age --
SELECT extract(epoch FROM clock_timestamp() - max(at))::float8 FROM {table}

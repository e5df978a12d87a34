-- facts --
-- Size and statistics of the narrow table, or of its partitions together.
WITH leaf AS (
    SELECT relid FROM pg_partition_tree({table_name}::regclass) WHERE isleaf
    UNION SELECT {table_name}::regclass WHERE NOT EXISTS (SELECT FROM pg_partition_tree({table_name}::regclass))
)
SELECT coalesce(sum(pg_relation_size(leaf.relid)), 0)::bigint,
       EXISTS (SELECT FROM leaf JOIN pg_class c ON c.oid = leaf.relid
                 JOIN pg_namespace n ON n.oid = c.relnamespace
                 JOIN pg_stats s ON (s.schemaname, s.tablename) = (n.nspname, c.relname)
                WHERE s.attname = 'created_time'),
       EXISTS (SELECT FROM pg_index i
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                WHERE i.indrelid = {table_name}::regclass AND i.indisvalid AND a.attname = 'created_time')
FROM leaf

-- span --
-- The first and last moment; two probes of the index on created_time.
SELECT (extract(epoch FROM min(created_time)) * 1000000)::bigint AS first_us,
       (extract(epoch FROM max(created_time)) * 1000000)::bigint AS last_us
FROM {table}
WHERE created_time >= {lower} AND created_time < {upper}

-- counted --
-- Exact counts in buckets of equal length: one scan, for small tables.
SELECT least(width_bucket(date_part('epoch', created_time - ({lower})), 0, {length_s}, {buckets}), {buckets}) - 1,
       count(*)
FROM {table}
WHERE created_time >= {lower} AND created_time < {upper} AND ship_id = ANY ({ships})
GROUP BY 1
ORDER BY 1

-- explained --
-- PostgreSQL's planner is the estimator: it knows histograms, partitions and growth since ANALYZE.
EXPLAIN (FORMAT JSON) SELECT FROM {table} WHERE created_time >= {lower} AND created_time < {upper}

-- explained_ship --
-- Ship by ship: for an array whose shares add up to 1.0000001 the planner takes them for independent.
EXPLAIN (FORMAT JSON) SELECT FROM {table} WHERE ship_id = {ship}

-- explained_all --
EXPLAIN (FORMAT JSON) SELECT FROM {table}

-- sampled --
-- How many wide rows a run of narrow rows makes. The limit stands before the choice of ships: a ship with few
-- rows would have the index walked to its end.
SELECT count(*), count(DISTINCT (ship_id, created_time))
FROM (
    SELECT ship_id, created_time
    FROM {table}
    WHERE created_time >= {lower} AND created_time < {upper}
    ORDER BY created_time
    LIMIT {rows}
) sample
WHERE ship_id = ANY ({ships})

-- begin --
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY

-- snapshot --
-- The first query of the transaction: what it says holds for all that follow.
SELECT pg_current_snapshot()::text AS snapshot, system_identifier::text AS system_identifier,
       pg_snapshot_xmin(pg_current_snapshot()) >= {barrier_xid}::xid8 AS passed
FROM pg_control_system()

-- slice --
SELECT ship_id, data_channel_id AS channel_id, created_time, value_format::text,
       double_v::text, long_v::text, str_v, bool_v::text
FROM {table}
WHERE created_time >= {lower} AND created_time < {upper} AND ship_id = ANY ({ships})

-- count --
SELECT count(*) AS rows
FROM {table}
WHERE created_time >= {lower} AND created_time < {upper} AND ship_id = ANY ({ships})

-- infinite --
-- Moments that int64 microseconds can't say; on the way of the stream they come as these two numbers.
SELECT ship_id, data_channel_id AS channel_id,
       CASE WHEN created_time < {first} THEN {before}::bigint ELSE {after}::bigint END AS created_time,
       value_format::text, double_v::text, long_v::text, str_v, bool_v::text
FROM {table}
WHERE ({want_before} AND created_time < {first} OR {want_after} AND created_time > {last})
  AND ship_id = ANY ({ships})

-- load --
-- What others do at the source: at work, waiting, and waiting for a lock (which every role may see).
SELECT count(*) FILTER (WHERE state = 'active'),
       count(*) FILTER (WHERE state = 'active' AND wait_event_type IN ('Lock', 'LWLock', 'IO', 'BufferPin')),
       (SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted
           AND pid NOT IN (SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, 'backfill')))
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND NOT starts_with(application_name, 'backfill')

-- slot --
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS retained,
       CASE WHEN setting <> '-1' THEN setting::bigint * 1024 * 1024 END AS budget
FROM pg_replication_slots, pg_settings
WHERE slot_name = {slot} AND name = 'max_slot_wal_keep_size' AND NOT pg_is_in_recovery()

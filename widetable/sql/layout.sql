-- layout --
SELECT version, column_type = 'typed', deletes = 'ignore', wide_schema FROM layout

-- current --
SELECT version, (SELECT coalesce(sum(relnatts), 0) FROM pg_class WHERE oid = ANY (%s::oid[])) FROM layout

-- channels --
SELECT channel_id, ordinal, table_no, column_name, column_type, state FROM channel ORDER BY ordinal

-- tables --
-- Every table (or part of one) that a live ship should have, with its columns in physical order; NULL where it is missing.
SELECT s.ship_id, y.table_no, n.name, c.oid, c.relnatts,
       (SELECT array_agg(a.attname::text ORDER BY a.attnum)
          FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM ship s
CROSS JOIN (SELECT table_no, suffix FROM system WHERE table_no IN (SELECT table_no FROM channel)) y
CROSS JOIN LATERAL (SELECT 'tbl_data_timeseries_' || s.table_prefix || '_' || y.suffix AS name) n
LEFT JOIN pg_class c ON c.relname = n.name AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)
WHERE s.state = 'live'
ORDER BY n.name

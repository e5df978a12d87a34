-- cells --
SELECT (SELECT count(*) FROM overflow_cell) AS overflow_cells,
       (SELECT count(*) FROM dead_cell WHERE pipeline = %(pipeline)s) AS dead_cells,
       (SELECT count(*) FROM channel WHERE state = 'pending') AS pending_channels,
       (SELECT count(*) FROM ship WHERE state = 'pending') AS pending_ships

-- history --
-- Each plan in numbers. The speed is that of the last five minutes, or since work began, if that is later.
SELECT plan_id, finished_at IS NOT NULL AS finished,
       count(*) FILTER (WHERE state = 'waiting') AS waiting, count(*) FILTER (WHERE state = 'running') AS running,
       count(*) FILTER (WHERE state = 'done') AS done, count(*) FILTER (WHERE state = 'failed') AS failed,
       coalesce(sum(rows) FILTER (WHERE state = 'done'), 0)::bigint AS rows,
       coalesce(sum(estimate) FILTER (WHERE state IN ('waiting', 'running')), 0)::bigint AS rows_left,
       (sum(rows) FILTER (WHERE recent) / nullif(extract(epoch FROM clock_timestamp()
           - greatest(min(started_at) FILTER (WHERE recent), now() - interval '5 minutes')), 0))::float8 AS rows_per_s
FROM plan
JOIN slice USING (plan_id)
CROSS JOIN LATERAL (SELECT state = 'done' AND done_at > now() - interval '5 minutes' AS recent) AS lately
WHERE pipeline = %(pipeline)s
GROUP BY plan_id
ORDER BY plan_id DESC

-- verified --
SELECT ship_id, verified_through::text FROM verified WHERE pipeline = %(pipeline)s

-- sessions --
-- Sessions of both programs on this server; those of other roles may be hidden.
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND (starts_with(application_name, 'cdc-consumer') OR starts_with(application_name, 'backfill'))

-- cells --
SELECT (SELECT count(*) FROM overflow_cell),
       (SELECT count(*) FROM channel WHERE state = 'pending'),
       (SELECT count(*) FROM ship WHERE state = 'pending'),
       (SELECT count(*) FROM ship WHERE state = 'live'),
       EXISTS (SELECT FROM hand_off WHERE pipeline = %(pipeline)s AND verify_required IS NOT NULL)

-- dead --
SELECT reason, count(*) FROM dead_cell WHERE pipeline = %(pipeline)s GROUP BY reason ORDER BY reason

-- slices --
SELECT state, count(*), coalesce(sum(rows), 0)::bigint, coalesce(sum(estimate), 0)::bigint
FROM slice JOIN plan USING (plan_id) WHERE pipeline = %(pipeline)s AND state <> 'split' GROUP BY state

-- pace --
SELECT coalesce(
    sum(rows) / greatest(1, extract(epoch FROM least(interval '1 min', now() - min(started_at)))), 0)::float8
FROM slice JOIN plan USING (plan_id)
WHERE pipeline = %(pipeline)s AND state = 'done' AND done_at > now() - interval '1 min'

-- verified --
SELECT count(*), extract(epoch FROM now() AT TIME ZONE 'UTC' - min(verified_through))::float8
FROM verified WHERE pipeline = %(pipeline)s AND isfinite(verified_through)

-- settled --
SELECT extract(epoch FROM now() - updated_at)::float8 FROM settled WHERE pipeline = %(pipeline)s

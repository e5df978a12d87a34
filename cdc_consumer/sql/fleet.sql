-- ships --
SELECT ship_id, CASE WHEN isfinite(verified_through) THEN (extract(epoch FROM verified_through) * 1000000)::bigint END
FROM ship LEFT JOIN (SELECT * FROM verified WHERE pipeline = %(pipeline)s) proven USING (ship_id)
WHERE state = 'live' ORDER BY ship_id

-- plans --
-- What a plan without an upper bound can hold ends when it was made.
SELECT plan_id, ships, (extract(epoch FROM created_at) * 1000000)::bigint FROM plan
WHERE pipeline = %(pipeline)s ORDER BY plan_id

-- span --
SELECT min(least(lower_us, upper_us)), max(greatest(lower_us, upper_us)), count(*) > count(lower_us), count(*) > count(upper_us)
FROM slice JOIN plan USING (plan_id) WHERE pipeline = %(pipeline)s AND state <> 'split'

-- slices --
-- Many slices begin and end in the same days: one row for those that do.
SELECT DISTINCT plan_id, state,
       coalesce(div(lower_us - %(start_us)s, %(bucket_us)s), 0)::int,
       coalesce(div(upper_us - 1 - %(start_us)s, %(bucket_us)s), %(last)s)::int
FROM slice JOIN plan USING (plan_id) WHERE pipeline = %(pipeline)s AND state <> 'split'

-- touch --
-- A stretch that waits already is left alone: nothing is locked, so writers do not wait for each other.
INSERT INTO recheck (pipeline, ship_id, lower_us, upper_us)
SELECT %(pipeline)s, t.ship_id, t.lower_us, t.upper_us
FROM unnest(%(ships)s::text[], %(lowers_us)s::int8[], %(uppers_us)s::int8[]) t (ship_id, lower_us, upper_us)
WHERE EXISTS (SELECT FROM verify_lap WHERE pipeline = %(pipeline)s)
ORDER BY t.ship_id, t.lower_us
ON CONFLICT DO NOTHING

-- take --
WITH ready AS (
    SELECT ship_id, lower_us, upper_us FROM recheck
    WHERE pipeline = %(pipeline)s AND NOT taken
      AND coalesce(tried_at, since) <= now() - %(rest_s)s * interval '1 s'
    ORDER BY coalesce(tried_at, since), ship_id, lower_us LIMIT %(limit)s
)
UPDATE recheck r SET taken = true FROM ready
WHERE r.pipeline = %(pipeline)s AND NOT r.taken
  AND (r.ship_id, r.lower_us, r.upper_us) = (ready.ship_id, ready.lower_us, ready.upper_us)
RETURNING r.ship_id, r.lower_us, r.upper_us

-- give_back --
WITH gone AS (
    DELETE FROM recheck WHERE pipeline = %(pipeline)s AND taken RETURNING ship_id, lower_us, upper_us, since
)
INSERT INTO recheck (pipeline, ship_id, lower_us, upper_us, since, tried_at)
SELECT %(pipeline)s, ship_id, lower_us, upper_us, since, now() FROM gone
ORDER BY ship_id, lower_us, upper_us -- as in touch: whoever inserts the same stretches waits, and not each for the other
ON CONFLICT (pipeline, ship_id, lower_us, upper_us, taken)
DO UPDATE SET since = least(recheck.since, excluded.since), tried_at = now()

-- done --
DELETE FROM recheck r USING unnest(%(ships)s::text[], %(lowers_us)s::int8[], %(uppers_us)s::int8[])
    d (ship_id, lower_us, upper_us)
WHERE r.pipeline = %(pipeline)s AND r.taken
  AND (r.ship_id, r.lower_us, r.upper_us) = (d.ship_id, d.lower_us, d.upper_us)

-- doubt --
-- As old as the look that found it, so that it holds back what is published from then on.
INSERT INTO recheck (pipeline, ship_id, lower_us, upper_us, since, tried_at)
VALUES (%(pipeline)s, %(ship)s, %(lower_us)s, %(upper_us)s, %(as_of)s, now())
ON CONFLICT (pipeline, ship_id, lower_us, upper_us, taken)
DO UPDATE SET since = least(recheck.since, excluded.since), tried_at = now()

-- waiting --
SELECT count(*) FROM recheck WHERE pipeline = %(pipeline)s

-- forget --
DELETE FROM recheck WHERE pipeline = %(pipeline)s

-- join --
INSERT INTO verify_lap (pipeline) VALUES (%(pipeline)s) ON CONFLICT DO NOTHING

-- lap --
SELECT laps, position_us, extract(epoch FROM now() - started_at)::float8, due, clean
FROM verify_lap WHERE pipeline = %(pipeline)s

-- begin_lap --
UPDATE verify_lap SET position_us = NULL, started_at = now(), due = %(due)s, clean = true
WHERE pipeline = %(pipeline)s

-- nothing_is_proven --
WITH forgotten AS (DELETE FROM verified WHERE pipeline = %(pipeline)s)
UPDATE verify_lap SET laps = 0 WHERE pipeline = %(pipeline)s

-- reach --
UPDATE verify_lap SET position_us = %(position_us)s, clean = clean AND %(clean)s,
    laps = laps + (%(position_us)s::int8 IS NULL)::int
WHERE pipeline = %(pipeline)s

-- alone --
SELECT pg_try_advisory_lock(hashtextextended('narrow-to-wide follow ' || %(pipeline)s, 0))

-- now --
SELECT clock_timestamp()

-- copying --
-- A copy without a hand-off is not gone on with once there is one.
SELECT EXISTS (
    SELECT FROM slice s JOIN plan p USING (plan_id)
    WHERE p.pipeline = %(pipeline)s AND s.state IN ('waiting', 'running')
      AND (p.epoch IS NOT NULL OR NOT EXISTS (SELECT FROM hand_off WHERE pipeline = p.pipeline)))

-- published --
-- And where the first stretch begins that was touched, or in doubt, at that time and was not proven since.
SELECT (SELECT (extract(epoch FROM verified_through) * 1000000)::int8 FROM verified
        WHERE pipeline = %(pipeline)s AND ship_id = %(ship)s),
       (SELECT min(lower_us) FROM recheck
        WHERE pipeline = %(pipeline)s AND ship_id = %(ship)s AND since <= %(as_of)s)

-- oldest_published --
SELECT min(verified_through)::text FROM verified WHERE pipeline = %(pipeline)s

-- publish --
INSERT INTO verified (pipeline, ship_id, verified_through, cells)
VALUES (%(pipeline)s, %(ship)s, timestamp 'epoch' + (%(through_us)s || ' microseconds')::interval, %(cells)s)
ON CONFLICT (pipeline, ship_id)
DO UPDATE SET verified_through = excluded.verified_through, cells = excluded.cells, checked_at = now()

-- create_stage --
CREATE TEMP TABLE IF NOT EXISTS stage_overflow (
    job int, step int, ship_id text, created_time timestamp, channel_id text,
    value text, value_format text, op int, epoch int, lsn bigint, kind text, reason text
) ON COMMIT DELETE ROWS

-- copy_stage --
COPY pg_temp.stage_overflow FROM STDIN

-- insert --
-- Cells that overflow has never seen take their first step; the rest is left to `update`.
INSERT INTO overflow_cell (ship_id, created_time, channel_id, value, value_format, epoch, lsn, kind, reason)
SELECT DISTINCT ON (ship_id, created_time, channel_id) ship_id, created_time, channel_id, value, value_format,
       CASE WHEN kind IS NOT NULL THEN epoch END, CASE WHEN kind IS NOT NULL THEN lsn END, kind, reason
FROM pg_temp.stage_overflow
WHERE job = %s AND (kind IS NOT NULL OR value IS NOT NULL)
ORDER BY ship_id, created_time, channel_id, step
ON CONFLICT DO NOTHING

-- lock --
SELECT count(*) FROM (
    SELECT FROM overflow_cell o JOIN pg_temp.stage_overflow s USING (ship_id, created_time, channel_id)
    WHERE s.job = %s
    ORDER BY ship_id, created_time, channel_id
    FOR UPDATE OF o
) locked

-- update --
-- The rule of every cell, on cells that overflow holds already; what `insert` just wrote never matches. A create
-- above a correction, or above a delete that was ignored, replaces the value and records its version.
UPDATE overflow_cell o
SET value = CASE WHEN s.kind = 'd' AND %(ignore_deletes)s THEN o.value ELSE s.value END,
    value_format = coalesce(s.value_format, o.value_format),
    epoch = CASE WHEN s.kind IS NOT NULL OR o.kind = ANY (%(replaced)s) THEN s.epoch ELSE o.epoch END,
    lsn = CASE WHEN s.kind IS NOT NULL OR o.kind = ANY (%(replaced)s) THEN s.lsn ELSE o.lsn END,
    kind = CASE WHEN s.kind IS NULL AND o.kind = ANY (%(replaced)s) THEN 'c' ELSE coalesce(s.kind, o.kind) END
FROM pg_temp.stage_overflow s
WHERE s.job = %(job)s AND s.step = %(step)s
  AND (o.ship_id, o.created_time, o.channel_id) = (s.ship_id, s.created_time, s.channel_id)
  AND CASE
        WHEN s.op = 0 THEN s.value IS NOT NULL AND o.value IS NULL AND o.epoch IS NULL
        WHEN s.kind IS NOT NULL OR o.kind = ANY (%(replaced)s)
        THEN o.epoch IS NULL OR (s.epoch, s.lsn) > (o.epoch, o.lsn)
        ELSE s.value IS NOT NULL AND o.value IS NULL AND (o.epoch IS NULL OR (s.epoch, s.lsn) > (o.epoch, o.lsn))
      END

-- delete --
-- An update or delete that is stored in its column takes the place of what overflow held.
DELETE FROM overflow_cell o USING pg_temp.stage_overflow s
WHERE s.job = %s AND (o.ship_id, o.created_time, o.channel_id) = (s.ship_id, s.created_time, s.channel_id)

-- any --
SELECT EXISTS (SELECT FROM overflow_cell)

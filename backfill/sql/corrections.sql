-- begin --
-- The version of the first time stays, so that what came later than that is not undone.
INSERT INTO correction_file (pipeline, digest, ship_id, name, epoch, lsn)
VALUES (%(pipeline)s, %(digest)s, %(ship_id)s, %(name)s, %(epoch)s, %(lsn)s)
ON CONFLICT (pipeline, digest, ship_id) DO UPDATE
SET name = excluded.name, started_at = now(), finished_at = NULL,
    epoch = CASE WHEN %(again)s THEN excluded.epoch ELSE correction_file.epoch END,
    lsn = CASE WHEN %(again)s THEN excluded.lsn ELSE correction_file.lsn END
RETURNING epoch, lsn

-- finish --
UPDATE correction_file SET finished_at = now(), cells = %(cells)s
WHERE pipeline = %(pipeline)s AND digest = %(digest)s AND ship_id = %(ship_id)s

-- known --
SELECT cells, finished_at FROM correction_file
WHERE pipeline = %(pipeline)s AND digest = %(digest)s AND ship_id = %(ship_id)s

-- channels --
SELECT c.channel_id, c.column_name, c.column_type, s.name
FROM channel c JOIN system s USING (table_no) ORDER BY c.ordinal

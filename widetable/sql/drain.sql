-- waiting --
-- What may move; the two reasons excluded belong to cells of live channels.
reason NOT IN ('does_not_fit', 'row_too_big')

-- early --
-- Cells that may move before the channel or ship is live.
kind IS NULL AND {waiting} AND {fits}

-- late --
-- Cells that move in the transaction that makes it live.
kind IS NOT NULL AND {waiting}

-- fits --
CASE WHEN value IS NULL THEN true {branches} ELSE true END

-- fits_type --
-- CASE twice, because nothing else promises that the cast sees valid input only.
WHEN channel_id = ANY ({channels})
THEN CASE WHEN pg_input_is_valid(value, {name}) THEN value::{type}::text = value ELSE false END

-- present --
SELECT DISTINCT channel_id FROM (
    SELECT channel_id FROM overflow_cell
    WHERE ship_id = {ship} AND channel_id = ANY ({channels}) AND {which}
    ORDER BY created_time LIMIT {limit}
) chunk

-- fill --
WITH chunk AS (
    SELECT created_time, channel_id FROM overflow_cell
    WHERE ship_id = {ship} AND channel_id = ANY ({channels}) AND {which}
    ORDER BY created_time LIMIT {limit}
), gone AS (
    DELETE FROM overflow_cell o USING chunk c
    WHERE o.ship_id = {ship} AND o.created_time = c.created_time AND o.channel_id = c.channel_id
    RETURNING o.created_time, o.channel_id, o.value
), put AS (
    INSERT INTO {table} AS wide (created_time, {columns})
    SELECT created_time, {values} FROM gone WHERE value IS NOT NULL GROUP BY created_time ORDER BY created_time
    ON CONFLICT (created_time) DO UPDATE SET {assignments} WHERE {changes}
)
SELECT count(*) FROM gone

-- fill_value --
(max(value) FILTER (WHERE channel_id = {channel}))::{type}

-- fill_changes --
(wide.{column} IS NULL AND excluded.{column} IS NOT NULL AND NOT coalesce(wide._x ? {ordinal}, false))

-- fill_assignment --
{column} = CASE WHEN {changes} THEN excluded.{column} ELSE wide.{column} END

-- settle --
-- Nobody else writes now: what the wide rows say is still so when they are written.
WITH chunk AS (
    SELECT created_time, channel_id, ordinal, value, epoch, lsn, kind, {fits} AS fits
    FROM overflow_cell JOIN unnest({channels}, {ordinals}) AS place(channel_id, ordinal) USING (channel_id)
    WHERE ship_id = {ship} AND {which}
    ORDER BY created_time LIMIT {limit}
), newer AS (
    SELECT chunk.* FROM chunk LEFT JOIN {table} wide USING (created_time)
    WHERE NOT coalesce(wide._x ? ordinal, false)
       OR ((wide._x -> ordinal ->> 0)::int, (wide._x -> ordinal ->> 1)::bigint) < (chunk.epoch, chunk.lsn)
), put AS (
    INSERT INTO {table} AS wide (created_time, _x, {columns})
    SELECT created_time,
           jsonb_object_agg(ordinal, jsonb_build_array(
               epoch, lsn, CASE WHEN fits OR kind = 'd' THEN kind ELSE 'o' END)),
           {values}
    FROM newer GROUP BY created_time ORDER BY created_time
    ON CONFLICT (created_time) DO UPDATE SET _x = coalesce(wide._x, '{{}}') || excluded._x, {assignments}
), gone AS (
    DELETE FROM overflow_cell o USING chunk c
    WHERE o.ship_id = {ship} AND o.created_time = c.created_time AND o.channel_id = c.channel_id AND c.fits
), kept AS (
    -- The value of a deleted cell is a re-insert's: the version goes to the column, the value stays as created.
    UPDATE overflow_cell o
    SET reason = 'does_not_fit', kind = nullif(o.kind, 'd'),
        epoch = CASE WHEN o.kind <> 'd' THEN o.epoch END, lsn = CASE WHEN o.kind <> 'd' THEN o.lsn END
    FROM chunk c
    WHERE o.ship_id = {ship} AND o.created_time = c.created_time AND o.channel_id = c.channel_id AND NOT c.fits
)
SELECT count(*) FROM chunk

-- settle_value --
(max(value) FILTER (WHERE channel_id = {channel} AND fits))::{type}

-- settle_assignment --
{column} = CASE WHEN excluded._x ? {ordinal} THEN excluded.{column} ELSE wide.{column} END

-- settle_assignment_ignoring_deletes --
-- An ignored delete keeps the value, which an earlier chunk may have moved to the column.
{column} = CASE WHEN NOT excluded._x ? {ordinal} THEN wide.{column}
                WHEN excluded._x -> {ordinal} ->> 2 = 'd' THEN coalesce(excluded.{column}, wide.{column})
                ELSE excluded.{column} END

-- keep_misfits --
-- After all that fits has moved.
UPDATE overflow_cell SET reason = 'does_not_fit'
WHERE ship_id = {ship} AND channel_id = ANY ({channels}) AND {waiting}

-- spill --
-- The row of the first cell is too big: its cells stay.
UPDATE overflow_cell o SET reason = 'row_too_big'
FROM (
    SELECT min(created_time) AS created_time FROM overflow_cell
    WHERE ship_id = {ship} AND channel_id = ANY ({channels}) AND {which}
) first
WHERE o.ship_id = {ship} AND o.created_time = first.created_time AND o.channel_id = ANY ({channels}) AND {waiting}

-- waiting --
-- What may move; the two reasons excluded belong to cells of live channels.
reason NOT IN ('does_not_fit', 'row_too_big')

-- fits --
CASE WHEN value IS NULL THEN true {branches} ELSE true END

-- fits_type --
-- CASE twice, because nothing else promises that the cast sees valid input only.
WHEN channel_id = ANY ({channels})
THEN CASE WHEN pg_input_is_valid(value, {name}) THEN value::{type}::text = value ELSE false END

-- present --
SELECT DISTINCT channel_id FROM (
    SELECT channel_id FROM overflow_cell
    WHERE ship_id = {ship} AND channel_id = ANY ({channels}) AND kind IS {negation} NULL AND {waiting} AND {fits}
    ORDER BY created_time LIMIT {limit}
) chunk

-- fill --
WITH chunk AS (
    SELECT created_time, channel_id FROM overflow_cell
    WHERE ship_id = {ship} AND channel_id = ANY ({channels}) AND kind IS NULL AND {waiting} AND {fits}
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
WITH chunk AS (
    SELECT created_time, value, epoch, lsn, kind, {fits} AS fits FROM overflow_cell
    WHERE ship_id = {ship} AND channel_id = {channel} AND kind IS NOT NULL AND {waiting}
    ORDER BY created_time LIMIT {limit}
), put AS (
    INSERT INTO {table} AS wide (created_time, _x, {column})
    SELECT created_time,
           jsonb_build_object({ordinal}, jsonb_build_array(
               epoch, lsn, CASE WHEN fits OR kind = 'd' THEN kind ELSE 'o' END)),
           (CASE WHEN fits THEN value END)::{type}
    FROM chunk ORDER BY created_time
    ON CONFLICT (created_time) DO UPDATE
    SET {column} = {value}, _x = coalesce(wide._x, '{{}}') || excluded._x
    WHERE NOT coalesce(wide._x ? {ordinal}, false)
       OR ((wide._x -> {ordinal} ->> 0)::int, (wide._x -> {ordinal} ->> 1)::bigint)
        < ((excluded._x -> {ordinal} ->> 0)::int, (excluded._x -> {ordinal} ->> 1)::bigint)
), gone AS (
    DELETE FROM overflow_cell o USING chunk c
    WHERE o.ship_id = {ship} AND o.created_time = c.created_time AND o.channel_id = {channel} AND c.fits
), kept AS (
    -- The value of a deleted cell is a re-insert's: the version goes to the column, the value stays as created.
    UPDATE overflow_cell o
    SET reason = 'does_not_fit', kind = nullif(o.kind, 'd'),
        epoch = CASE WHEN o.kind <> 'd' THEN o.epoch END, lsn = CASE WHEN o.kind <> 'd' THEN o.lsn END
    FROM chunk c
    WHERE o.ship_id = {ship} AND o.created_time = c.created_time AND o.channel_id = {channel} AND NOT c.fits
)
SELECT count(*) FROM chunk

-- settle_value --
excluded.{column}

-- settle_value_ignoring_deletes --
-- An ignored delete keeps the value, which an earlier chunk may have moved to the column.
CASE excluded._x -> {ordinal} ->> 2 WHEN 'd' THEN coalesce(excluded.{column}, wide.{column}) ELSE excluded.{column} END

-- keep_misfits --
-- After all that fits has moved.
UPDATE overflow_cell SET reason = 'does_not_fit'
WHERE ship_id = {ship} AND channel_id = ANY ({channels}) AND {waiting}

-- spill --
-- The row of the first cell is too big: its cells stay.
UPDATE overflow_cell o SET reason = 'row_too_big'
FROM (
    SELECT min(created_time) AS created_time FROM overflow_cell
    WHERE ship_id = {ship} AND channel_id = ANY ({channels}) AND kind IS {negation} NULL AND {waiting} AND {fits}
) first
WHERE o.ship_id = {ship} AND o.created_time = first.created_time AND o.channel_id = ANY ({channels}) AND {waiting}

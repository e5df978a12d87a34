-- rows --
-- Wide rows of one table in a period; an index alone answers.
SELECT count(*) FROM {table} WHERE created_time >= {lower} AND created_time < {upper}

-- any_value --
SELECT EXISTS (SELECT FROM {table} WHERE created_time >= {lower} AND created_time < {upper} AND NOT (ROW({columns}) IS NULL))

-- overflow --
SELECT count(*) FROM overflow_cell
WHERE ship_id = {ship} AND created_time >= {lower} AND created_time < {upper} AND channel_id = ANY ({channels})
  AND value IS NOT NULL

-- page_end --
-- The last of the next moments, whichever table has them.
SELECT (extract(epoch FROM max(created_time)) * 1000000)::int8
FROM (SELECT created_time FROM ({moments}) moment ORDER BY created_time LIMIT {rows}) page

-- moments --
(SELECT created_time FROM {table} WHERE created_time >= {lower} AND created_time < {upper}
 ORDER BY created_time LIMIT {rows})

-- page --
COPY (SELECT created_time, {columns} FROM {joined} WHERE NOT (ROW({columns}) IS NULL) ORDER BY created_time)
TO STDOUT (FORMAT csv)

-- part --
(SELECT created_time, {columns} FROM {table} WHERE created_time >= {lower} AND created_time < {upper}) {alias}

-- unknown_channels --
-- A loose index scan: one probe per channel that overflow holds, however many cells.
WITH RECURSIVE seen (channel_id) AS (
    (SELECT channel_id FROM overflow_cell ORDER BY channel_id LIMIT 1)
    UNION ALL
    SELECT (SELECT o.channel_id FROM overflow_cell o WHERE o.channel_id > s.channel_id ORDER BY o.channel_id LIMIT 1)
    FROM seen s WHERE s.channel_id IS NOT NULL
)
SELECT channel_id FROM seen s
WHERE channel_id IS NOT NULL AND NOT EXISTS (SELECT FROM channel c WHERE c.channel_id = s.channel_id)

-- unknown_ships --
WITH RECURSIVE seen (ship_id) AS (
    (SELECT ship_id FROM overflow_cell ORDER BY ship_id LIMIT 1)
    UNION ALL
    SELECT (SELECT o.ship_id FROM overflow_cell o WHERE o.ship_id > s.ship_id ORDER BY o.ship_id LIMIT 1)
    FROM seen s WHERE s.ship_id IS NOT NULL
)
SELECT ship_id FROM seen s
WHERE ship_id IS NOT NULL AND NOT EXISTS (SELECT FROM ship k WHERE k.ship_id = s.ship_id)

-- formats --
SELECT value_format
FROM (SELECT value_format FROM overflow_cell WHERE channel_id = %s AND value IS NOT NULL LIMIT 1000) sample
WHERE value_format = ANY (%s::text[])
GROUP BY value_format
ORDER BY count(*) DESC, value_format
LIMIT 1

-- ships --
-- A loose index scan: one probe of the primary key per ship, whatever the size of the table.
WITH RECURSIVE ship (ship_id) AS (
    (SELECT ship_id FROM {table} ORDER BY ship_id LIMIT 1)
    UNION ALL
    SELECT (SELECT n.ship_id FROM {table} n WHERE n.ship_id > s.ship_id ORDER BY n.ship_id LIMIT 1)
    FROM ship s WHERE s.ship_id IS NOT NULL
)
SELECT ship_id FROM ship WHERE ship_id IS NOT NULL

-- latest --
-- The last moment that is no more than a day ahead; ships' clocks jump.
SELECT max(created_time) FROM {table} WHERE created_time > '-infinity' AND created_time < now()::timestamp + interval '1 day'

-- channels --
-- Bounds are literals, so that the planner sees how few rows the index on created_time yields.
SELECT channel_id, value_format, count(*), avg(octet_length(value)), max(octet_length(value))
FROM (
    SELECT t.data_channel_id AS channel_id, {format} AS value_format, {value} AS value
    FROM {table} t
    WHERE t.created_time > {since} AND t.created_time <= {until} AND {ship_condition}
) sample
GROUP BY channel_id, value_format
ORDER BY channel_id, count(*) DESC, value_format

-- excess --
-- Per table: how many bytes more than its channels' averages the 99.9th percentile of the observed rows takes. A row
-- that is not full is measured by the channels that it has.
SELECT table_no, percentile_disc(0.999) WITHIN GROUP (ORDER BY excess)
FROM (
    SELECT m.table_no, sum(least(octet_length({value}) + 1, {never_toasted}) - m.typical_bytes) AS excess
    FROM {table} t
    JOIN unnest({channels}, {tables}, {bytes}) AS m (channel_id, table_no, typical_bytes)
      ON m.channel_id = t.data_channel_id
    WHERE t.created_time > {since} AND t.created_time <= {until} AND {ship_condition} AND ({value}) IS NOT NULL
    GROUP BY t.ship_id, t.created_time, m.table_no
) observed
GROUP BY table_no

-- silent --
-- The last sample of channels that were silent: one probe of the primary key per ship and channel.
SELECT channel_id, value_format, count(*), avg(octet_length(value)), max(octet_length(value))
FROM (
    SELECT t.data_channel_id AS channel_id, {format} AS value_format, {value} AS value
    FROM unnest({ships}) ship_id
    CROSS JOIN unnest({channels}) channel_id
    CROSS JOIN LATERAL (
        SELECT * FROM {table} n
        WHERE n.ship_id = ship_id.ship_id AND n.data_channel_id = channel_id.channel_id
        ORDER BY n.created_time DESC LIMIT 1
    ) t
) sample
GROUP BY channel_id, value_format
ORDER BY channel_id, count(*) DESC, value_format

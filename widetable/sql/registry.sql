-- layout --
SELECT version, column_type, wide_schema, deletes, new_channels, new_ships FROM layout

-- systems --
SELECT table_no, name, is_default, part FROM system ORDER BY reader_no, part

-- rules --
SELECT prefix, table_no FROM prefix_rule ORDER BY position

-- channels --
SELECT table_no, channel_id, column_name, column_type, state = 'pending' AS pending, ordinal
FROM channel ORDER BY ordinal

-- ships --
SELECT ship_id, state = 'pending' FROM ship ORDER BY ship_id

-- insert_layout --
-- The version starts at the transaction's id, which is above any version so far (each was raised by a transaction
-- of its own): a layout cached before the tables were dropped must never look current.
INSERT INTO layout (version, column_type, wide_schema, deletes, new_channels, new_ships)
VALUES (pg_current_xact_id()::text::bigint, %s, %s, %s, %s, %s)

-- update_policies --
UPDATE layout SET new_channels = %s, new_ships = %s

-- insert_system --
INSERT INTO system (table_no, name, is_default, part) VALUES (%s, %s, %s, %s)

-- unset_default_system --
UPDATE system SET is_default = false WHERE is_default

-- set_default_system --
UPDATE system SET is_default = true WHERE table_no = %s

-- delete_rules --
DELETE FROM prefix_rule

-- insert_rule --
INSERT INTO prefix_rule (position, prefix, table_no) VALUES (%s, %s, %s)

-- insert_channel --
-- Once there are ships, overflow may hold cells of the channel: it stays pending until they are drained.
INSERT INTO channel (channel_id, table_no, column_name, column_type, state)
VALUES (%s, %s, %s, %s, CASE WHEN EXISTS (SELECT FROM ship) THEN 'pending' ELSE 'live' END)

-- insert_ship --
-- Likewise: a ship whose cells wait in overflow stays pending until they are drained.
INSERT INTO ship (ship_id, table_prefix, state)
SELECT new.ship_id, new.prefix,
       CASE WHEN EXISTS (SELECT FROM overflow_cell o WHERE o.ship_id = new.ship_id) THEN 'pending' ELSE 'live' END
FROM (SELECT %s::text, %s::text) new (ship_id, prefix)
RETURNING state = 'pending'

-- set_channels_live --
UPDATE channel SET state = 'live' WHERE channel_id = ANY (%s::text[]) AND state = 'pending'

-- set_ship_live --
UPDATE ship SET state = 'live' WHERE ship_id = %s AND state = 'pending'

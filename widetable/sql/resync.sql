-- unseen_commit --
-- A commit that waits for a synchronous standby may have been streamed, and no snapshot sees it yet.
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')

-- oldest --
SELECT (extract(epoch FROM min(created_time)) * 1000000)::int8 FROM {table}
WHERE created_time > '-infinity'

-- read --
-- By the primary key; a cell without a row is there, too: its absence is its state.
SELECT w.ship_id, w.channel_id, w.moment_us, n.value_format::text, n.double_v::text, n.long_v::text, n.str_v,
       n.bool_v::text, n.ship_id IS NULL
FROM unnest(%s::text[], %s::int8[], %s::text[]) w (ship_id, moment_us, channel_id)
LEFT JOIN {table} n ON n.ship_id = w.ship_id AND n.data_channel_id = w.channel_id
 AND n.created_time = timestamp 'epoch' + (w.moment_us || ' microseconds')::interval

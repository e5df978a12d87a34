-- droppable --
SELECT c.relname, greatest(c.reltuples, 0)::bigint, pg_total_relation_size(c.oid)
FROM pg_class c
WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relname = ANY (%s::text[]) AND c.relkind IN ('r', 'p')
ORDER BY c.relname

-- at_work --
-- Start times tell a session from a later one with the same process id.
SELECT coalesce(nullif(a.application_name, ''), 'a session'), a.pid
FROM pg_stat_activity a
WHERE EXISTS (SELECT FROM offset_ledger l WHERE l.backend_pid = a.pid AND l.backend_start = a.backend_start)
   OR EXISTS (SELECT FROM slice s WHERE s.state = 'running' AND s.backend_pid = a.pid AND s.backend_start = a.backend_start)
   OR EXISTS (SELECT FROM writer_session w WHERE w.backend_pid = a.pid AND w.backend_start = a.backend_start)
ORDER BY a.pid

-- overflow --
DELETE FROM overflow_cell

-- deferred_indexes --
DELETE FROM deferred_index

-- corrections --
DELETE FROM correction_file

-- verified --
DELETE FROM verified

-- plans --
DELETE FROM plan

-- ships --
DELETE FROM ship

-- channels --
DELETE FROM channel

-- rules --
DELETE FROM prefix_rule

-- systems --
DELETE FROM system

-- layout --
DELETE FROM layout

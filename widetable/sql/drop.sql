-- droppable --
-- Views first: they hold on to the parts below them.
SELECT c.relname, greatest(c.reltuples, 0)::bigint, pg_total_relation_size(c.oid), c.relkind = 'v'
FROM pg_class c
WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relname = ANY (%s::text[]) AND c.relkind IN ('r', 'p', 'v')
ORDER BY c.relkind <> 'v', c.relname

-- at_work --
-- Start times tell a session from a later one with the same process id. PostgreSQL hides those of other roles
-- from a role without pg_read_all_stats: such a session counts as the one recorded.
SELECT DISTINCT coalesce(nullif(a.application_name, ''), 'a session'), a.pid
FROM (SELECT backend_pid, backend_start FROM offset_ledger
      UNION SELECT backend_pid, backend_start FROM slice WHERE state = 'running'
      UNION SELECT backend_pid, backend_start FROM writer_session) AS writer
JOIN pg_stat_activity a ON a.pid = writer.backend_pid
                       AND coalesce(a.backend_start, writer.backend_start) = writer.backend_start
ORDER BY 2

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

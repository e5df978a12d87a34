-- announce --
-- Committed before the work begins, so that live data sees whom it waits for.
INSERT INTO resync (pipeline, backend_pid, backend_start)
SELECT %(pipeline)s, pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()
ON CONFLICT (pipeline) DO UPDATE
SET backend_pid = excluded.backend_pid, backend_start = excluded.backend_start, started_at = now()

-- enter --
-- Others see the row until the transaction commits, and a second standstill waits for it.
DELETE FROM resync WHERE pipeline = %(pipeline)s AND backend_pid = pg_backend_pid()

-- lock_ledger --
SELECT FROM offset_ledger WHERE pipeline = %(pipeline)s ORDER BY topic_id, partition FOR UPDATE

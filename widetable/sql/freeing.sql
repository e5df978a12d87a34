-- end_owner --
-- In the select list: in WHERE it could run for sessions that another condition rules out.
-- The recorded owner of a partition, if it is really the session that keeps us waiting.
SELECT a.pid, pg_terminate_backend(a.pid)
FROM offset_ledger l
JOIN pg_stat_activity a ON a.pid = l.backend_pid AND a.backend_start = l.backend_start
WHERE l.pipeline = %(pipeline)s AND l.topic_id = %(topic_id)s AND l.partition = %(partition)s
  AND l.backend_pid = ANY (pg_blocking_pids(%(waiting_pid)s))

-- end_lesser --
-- A slice of history in work, a retry or import, or a resync.
SELECT a.pid, pg_terminate_backend(a.pid)
FROM (SELECT backend_pid, backend_start FROM slice WHERE state = 'running'
      UNION SELECT backend_pid, backend_start FROM writer_session
      UNION SELECT backend_pid, backend_start FROM resync) AS lesser
JOIN pg_stat_activity a ON (a.pid, a.backend_start) = (lesser.backend_pid, lesser.backend_start)
WHERE a.pid = ANY (pg_blocking_pids(%(waiting_pid)s))

-- give_back --
-- The slice is tried again later, and the attempt does not count as failed. Waits until the session is gone.
UPDATE slice SET state = 'waiting', worker = NULL, error = 'ended: it kept live data waiting',
                 not_before = clock_timestamp() + interval '10 s'
WHERE state = 'running' AND backend_pid = ANY (%(pids)s)

-- enter --
-- Those that ended without leaving go at the same time.
WITH gone AS (
    DELETE FROM writer_session w
    WHERE NOT EXISTS (SELECT FROM pg_stat_activity a WHERE (a.pid, a.backend_start) = (w.backend_pid, w.backend_start))
)
INSERT INTO writer_session (backend_pid, backend_start, command)
SELECT pid, backend_start, %s FROM pg_stat_activity WHERE pid = pg_backend_pid()

-- leave --
DELETE FROM writer_session WHERE backend_pid = pg_backend_pid()

-- ships --
SELECT ship_id FROM ship WHERE state = 'live' ORDER BY ship_id

-- channels --
SELECT count(*) FROM channel

-- lock_plans --
-- Two runs at once must not make two plans.
LOCK TABLE plan IN SHARE ROW EXCLUSIVE MODE

-- plans --
-- A copy made without a hand-off does not count once there is one: its reads were not behind the barrier.
SELECT plan_id, epoch, ships, from_us, until_us, finished_at IS NOT NULL
FROM plan WHERE pipeline = %s AND (epoch IS NOT NULL) = %s ORDER BY plan_id

-- add_plan --
INSERT INTO plan (pipeline, epoch, ships, from_us, until_us) VALUES (%s, %s, %s, %s, %s) RETURNING plan_id

-- copy_slices --
COPY slice (plan_id, slice_no, lower_us, upper_us, estimate) FROM STDIN

-- drop_plans --
DELETE FROM plan WHERE plan_id = ANY (%s)

-- reopen --
-- A person asks again: slices that were given up get a fresh count of failures. `attempt` never falls.
UPDATE slice SET state = 'waiting', failures = 0, not_before = '-infinity'
WHERE plan_id = %s AND state = 'failed'

-- finish --
UPDATE plan SET finished_at = now()
WHERE plan_id = %s AND finished_at IS NULL
  AND NOT EXISTS (SELECT FROM slice s WHERE s.plan_id = plan.plan_id AND s.state NOT IN ('done', 'split'))

-- claim --
-- The next slice that waits, or that a worker left behind: its session is gone, or its lease is over. Whoever
-- holds the row (somebody's data transaction) is passed over.
UPDATE slice SET
    state = 'running', attempt = attempt + 1, worker = %(worker)s, started_at = clock_timestamp(),
    failures = failures + CASE WHEN state = 'running' THEN 1 ELSE 0 END,
    error = CASE WHEN state = 'running' THEN 'its worker went away' ELSE error END,
    (backend_pid, backend_start) = (SELECT a.pid, a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid())
WHERE (plan_id, slice_no) = (
    SELECT plan_id, slice_no FROM slice
    WHERE plan_id = %(plan_id)s
      AND (state = 'waiting' AND not_before <= now()
           OR state = 'running' AND (
               started_at < now() - make_interval(secs => %(lease_s)s)
               OR NOT EXISTS (SELECT FROM pg_stat_activity a
                               WHERE (a.pid, a.backend_start) = (slice.backend_pid, slice.backend_start))))
    ORDER BY slice_no LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING slice_no, lower_us, upper_us, estimate, attempt, failures

-- release --
-- Give a slice back untouched.
UPDATE slice SET state = 'waiting', worker = NULL
WHERE plan_id = %s AND slice_no = %s AND attempt = %s AND state = 'running'

-- lock --
SELECT FROM slice WHERE plan_id = %s AND slice_no = %s AND attempt = %s AND state = 'running' FOR UPDATE

-- done --
UPDATE slice SET state = 'done', rows = %(rows)s, cells = %(cells)s, snapshot = %(snapshot)s, error = NULL,
                 ship_rows = %(ship_rows)s, done_at = clock_timestamp()
WHERE plan_id = %(plan_id)s AND slice_no = %(slice_no)s

-- split --
UPDATE slice SET state = 'split', done_at = clock_timestamp() WHERE plan_id = %s AND slice_no = %s

-- lock_plan --
-- Children are numbered one split at a time.
SELECT (SELECT max(slice_no) FROM slice s WHERE s.plan_id = plan.plan_id) FROM plan WHERE plan_id = %s FOR UPDATE

-- fail --
UPDATE slice SET
    state = CASE WHEN failures + 1 >= %(attempts)s THEN 'failed' ELSE 'waiting' END,
    failures = failures + 1, error = %(error)s,
    not_before = clock_timestamp() + make_interval(secs => %(wait_s)s)
WHERE plan_id = %(plan_id)s AND slice_no = %(slice_no)s AND attempt = %(attempt)s AND state = 'running'
RETURNING state

-- stuck --
-- A process stopped in mid-COPY holds its slice through every timeout; only this frees it.
SELECT pg_terminate_backend(a.pid)
FROM slice s JOIN pg_stat_activity a ON (a.pid, a.backend_start) = (s.backend_pid, s.backend_start)
WHERE s.plan_id = %s AND s.state = 'running' AND s.started_at < now() - make_interval(secs => %s)

-- open --
SELECT count(*) FROM slice WHERE plan_id = %s AND state IN ('waiting', 'running')

-- totals --
SELECT count(*) FILTER (WHERE state <> 'split'), count(*) FILTER (WHERE state = 'done'),
       count(*) FILTER (WHERE state = 'running'), count(*) FILTER (WHERE state = 'failed'),
       coalesce(sum(rows) FILTER (WHERE state = 'done'), 0)::bigint,
       coalesce(sum(cells) FILTER (WHERE state = 'done'), 0)::bigint,
       coalesce(sum(estimate) FILTER (WHERE state IN ('waiting', 'running')), 0)::bigint,
       count(*) FILTER (WHERE state = 'done' AND starts_with(worker, %(run)s)),
       coalesce(sum(rows) FILTER (WHERE state = 'done' AND starts_with(worker, %(run)s)), 0)::bigint,
       coalesce(sum(cells) FILTER (WHERE state = 'done' AND starts_with(worker, %(run)s)), 0)::bigint
FROM slice WHERE plan_id = %(plan_id)s

-- failed --
SELECT slice_no, lower_us, upper_us, attempt, error
FROM slice WHERE plan_id = %s AND state = 'failed' ORDER BY slice_no LIMIT %s

-- pace --
-- Rows per second and worker of slices done before.
SELECT sum(rows) / nullif(sum(extract(epoch FROM done_at - started_at)), 0)
FROM slice JOIN plan USING (plan_id)
WHERE pipeline = %s AND state = 'done' AND rows > 0

-- retried --
-- A failed slice whose data was copied outside of any claim, all ships of it.
UPDATE slice SET state = 'done', attempt = attempt + 1, worker = 'retry', rows = %(rows)s, cells = %(cells)s,
                 snapshot = %(snapshot)s, ship_rows = %(ship_rows)s, done_at = clock_timestamp(), error = NULL
WHERE plan_id = %(plan_id)s AND slice_no = %(slice_no)s AND attempt = %(attempt)s AND state = 'failed'

-- ship_rows --
SELECT key, sum(value::bigint)::bigint
FROM slice, jsonb_each_text(ship_rows)
WHERE plan_id = %s AND state = 'done'
GROUP BY key

-- through --
-- Slices follow each other in time: all before the first one that is not done is copied. NULL: nothing, or all.
SELECT lower_us FROM slice WHERE plan_id = %s AND state NOT IN ('done', 'split')
ORDER BY lower_us NULLS FIRST LIMIT 1

-- claim --
UPDATE offset_ledger
SET fence = fence + 1, owner = %(owner)s, backend_pid = pg_backend_pid(), updated_at = now(),
    backend_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
WHERE pipeline = %(pipeline)s AND topic_id = %(topic_id)s AND partition = %(partition)s
RETURNING fence, batch_no, next_offset

-- advance --
UPDATE offset_ledger
SET next_offset = %(to)s, batch_no = batch_no + 1, updated_at = now()
WHERE pipeline = %(pipeline)s AND topic_id = %(topic_id)s AND partition = %(partition)s
  AND fence = %(fence)s AND batch_no = %(batch_no)s

-- owner --
SELECT owner FROM offset_ledger
WHERE pipeline = %(pipeline)s AND topic_id = %(topic_id)s AND partition = %(partition)s

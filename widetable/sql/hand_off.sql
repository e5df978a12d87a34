-- epochs --
SELECT epoch, system_identifier, timeline, slot, publication, consistent_point::text, barrier_xid::text,
       topic, topic_id, boundary_offsets, placeholder, ended_at IS NOT NULL, verify_required
FROM hand_off
WHERE pipeline = %(pipeline)s
ORDER BY epoch

-- insert --
INSERT INTO hand_off (pipeline, epoch, system_identifier, timeline, slot, publication, consistent_point,
                      barrier_xid, topic, topic_id, boundary_offsets, placeholder, verify_required)
VALUES (%(pipeline)s, %(epoch)s, %(system_identifier)s, %(timeline)s, %(slot)s, %(publication)s,
        %(consistent_point)s::pg_lsn, %(barrier_xid)s::text::xid8, %(topic)s, %(topic_id)s,
        %(boundary_offsets)s, %(placeholder)s, %(verify_required)s)

-- insert_ledger --
INSERT INTO offset_ledger (pipeline, topic_id, partition, next_offset)
SELECT %(pipeline)s, %(topic_id)s, boundary.key::int, boundary.value::bigint
FROM jsonb_each_text(%(boundary_offsets)s) AS boundary
ON CONFLICT (pipeline, topic_id, partition) DO NOTHING

-- lock_ledger --
SELECT partition FROM offset_ledger
WHERE pipeline = %(pipeline)s
ORDER BY topic_id, partition
FOR UPDATE

-- fence --
UPDATE offset_ledger SET fence = fence + 1
WHERE pipeline = %(pipeline)s

-- reach --
-- What retention has removed can't be read any more, and what lies beyond the end was lost by the broker.
UPDATE offset_ledger l
SET next_offset = least(greatest(l.next_offset, held.first_offset), held.end_offset)
FROM unnest(%(partitions)s::int[], %(firsts)s::bigint[], %(ends)s::bigint[]) AS held (partition, first_offset, end_offset)
WHERE l.pipeline = %(pipeline)s AND l.topic_id = %(topic_id)s AND l.partition = held.partition

-- end --
UPDATE hand_off SET ended_at = now(), verify_required = %(reason)s
WHERE pipeline = %(pipeline)s AND ended_at IS NULL

-- add_partitions --
UPDATE hand_off SET boundary_offsets = boundary_offsets || %(boundary_offsets)s
WHERE pipeline = %(pipeline)s AND ended_at IS NULL

-- require_verify --
UPDATE hand_off SET verify_required = concat_ws('; ', verify_required, %(reason)s::text)
WHERE pipeline = %(pipeline)s AND ended_at IS NULL

-- pass --
UPDATE offset_ledger l
SET next_offset = next_offset + 1, batch_no = batch_no + 1, fence = fence + 1, updated_at = now()
WHERE pipeline = %(pipeline)s AND topic_id = %(topic_id)s AND partition = %(partition)s
  AND next_offset = %(offset)s
  AND NOT EXISTS (SELECT FROM pg_stat_activity a
                  WHERE a.pid = l.backend_pid AND a.backend_start = l.backend_start)

-- ledger --
SELECT partition, next_offset, owner, updated_at
FROM offset_ledger
WHERE pipeline = %(pipeline)s AND topic_id = %(topic_id)s
ORDER BY partition

-- settled --
-- LSNs of an earlier epoch say nothing: it may have been another cluster.
SELECT s.epoch, s.settled_lsn::text FROM settled s
WHERE s.pipeline = %(pipeline)s
  AND NOT EXISTS (SELECT FROM hand_off h WHERE h.pipeline = s.pipeline AND h.epoch > s.epoch)

-- settle --
INSERT INTO settled (pipeline, epoch, settled_lsn)
VALUES (%(pipeline)s, %(epoch)s, %(lsn)s::pg_lsn)
ON CONFLICT (pipeline) DO UPDATE
SET epoch = excluded.epoch, settled_lsn = excluded.settled_lsn, updated_at = now()
WHERE (settled.epoch, settled.settled_lsn) < (excluded.epoch, excluded.settled_lsn)

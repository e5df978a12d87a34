-- epochs --
SELECT epoch, system_identifier, timeline, slot, publication, consistent_point::text, barrier_xid::text,
       topic, topic_id, boundary_offsets, placeholder, ended_at IS NOT NULL
FROM hand_off
WHERE pipeline = %(pipeline)s
ORDER BY epoch

-- insert --
INSERT INTO hand_off (pipeline, epoch, system_identifier, timeline, slot, publication, consistent_point,
                      barrier_xid, topic, topic_id, boundary_offsets, placeholder)
VALUES (%(pipeline)s, %(epoch)s, %(system_identifier)s, %(timeline)s, %(slot)s, %(publication)s,
        %(consistent_point)s::pg_lsn, %(barrier_xid)s::text::xid8, %(topic)s, %(topic_id)s,
        %(boundary_offsets)s, %(placeholder)s)

-- insert_ledger --
INSERT INTO offset_ledger (pipeline, topic_id, partition, next_offset)
SELECT %(pipeline)s, %(topic_id)s, boundary.key::int, boundary.value::bigint
FROM jsonb_each_text(%(boundary_offsets)s) AS boundary
ON CONFLICT (pipeline, topic_id, partition) DO NOTHING

-- end --
UPDATE hand_off SET ended_at = now()
WHERE pipeline = %(pipeline)s AND ended_at IS NULL

-- ledger --
SELECT partition, next_offset, owner, updated_at
FROM offset_ledger
WHERE pipeline = %(pipeline)s AND topic_id = %(topic_id)s
ORDER BY partition

-- settled --
SELECT epoch, settled_lsn::text FROM settled WHERE pipeline = %(pipeline)s

-- settle --
INSERT INTO settled (pipeline, epoch, settled_lsn)
VALUES (%(pipeline)s, %(epoch)s, %(lsn)s::pg_lsn)
ON CONFLICT (pipeline) DO UPDATE
SET epoch = excluded.epoch, settled_lsn = excluded.settled_lsn, updated_at = now()
WHERE (settled.epoch, settled.settled_lsn) < (excluded.epoch, excluded.settled_lsn)

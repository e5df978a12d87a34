-- matching --
-- The filters are NULL where nothing was asked for.
SELECT * FROM dead_cell
WHERE pipeline = %(pipeline)s
  AND (%(reason)s::text IS NULL OR reason = %(reason)s)
  AND (%(partition)s::int IS NULL OR partition = %(partition)s)
  AND (%(ship_id)s::text IS NULL OR ship_id = %(ship_id)s)
  AND (%(since)s::timestamptz IS NULL OR added_at >= %(since)s)

-- summary --
SELECT reason, count(*), min(added_at), max(added_at) FROM matching GROUP BY reason ORDER BY 2 DESC, 1

-- letters --
SELECT dead_no, added_at, reason, detail, topic, topic_id, partition, kafka_offset, ship_id, channel_id,
       created_time, headers, raw_key, raw_value
FROM matching
ORDER BY dead_no

-- latest --
SELECT dead_no, added_at, reason, detail, topic, topic_id, partition, kafka_offset, ship_id, channel_id,
       created_time, headers, NULL, NULL
FROM matching
ORDER BY dead_no DESC
LIMIT %(limit)s

-- numbers --
SELECT dead_no FROM matching ORDER BY dead_no

-- numbered --
SELECT dead_no, added_at, reason, detail, topic, topic_id, partition, kafka_offset, ship_id, channel_id,
       created_time, headers, raw_key, raw_value
FROM dead_cell
WHERE pipeline = %(pipeline)s AND dead_no = ANY (%(numbers)s)
ORDER BY dead_no

-- remove --
-- Of two replays at a time, the one that comes second finds its letters gone.
DELETE FROM dead_cell WHERE dead_no = ANY (%(numbers)s) RETURNING dead_no

-- dead_again --
-- What the replayed records have in them that is dead by itself.
SELECT d.partition, d.kafka_offset, d.dead_no, d.reason, d.detail
FROM unnest(%(partitions)s::int[], %(offsets)s::bigint[]) AS replayed (partition, kafka_offset)
JOIN dead_cell d USING (partition, kafka_offset)
WHERE d.topic_id = %(topic_id)s
ORDER BY d.dead_no

-- require_verify --
UPDATE hand_off SET verify_required = concat_ws('; ', verify_required, %(reason)s::text)
WHERE pipeline = %(pipeline)s AND ended_at IS NULL
  AND position(%(reason)s in coalesce(verify_required, '')) = 0
